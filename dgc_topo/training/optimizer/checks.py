"""Checks of the user's optimizer, beside a hook that averages gradients before it sees them."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Mapping
from typing import Any
from weakref import WeakSet

from torch import Tensor
from torch.optim import SGD, Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from dgc_topo.compression.compressor import check_no_momentum
from dgc_topo.training.optimizer.distributed import DistributedOptimizer

_INSTEAD = (
    "dt.DistributedOptimizer(optimizer, model, density=...) without DistributedDataParallel "
    "compresses its updates, or set density=1"
)


def watch_optimizers(
    owner: object,
    parameters: Mapping[str, Tensor],
    *,
    momentum: float,
    is_sparse: bool,
    where: str = "dt.hook",
    instead: str = _INSTEAD,
) -> RemovableHandle:
    """Look at every optimizer of some parameters when it makes its first step.

    The step is refused if the optimizer would apply momentum a second time, or averages gradients
    itself; a warning is given, once for each optimizer, if it is poor on compressed gradients.
    Momentum is looked at in each step: a snapshot that is loaded may bring it back.

    Args:
        owner: What averages the gradients; the watch ends with it, and does not keep it alive.
        parameters: Those whose gradients it averages.
        momentum: The momentum that it applies to them.
        is_sparse: True if it sends only some elements.
        where: Its name in errors and warnings.
        instead: Advice in the warning.

    Returns:
        Handle whose ``remove`` ends the watch.
    """
    watched = {id(parameter) for parameter in parameters.values()}
    seen: WeakSet[Optimizer] = WeakSet()

    def look(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        del args, kwargs
        is_new = optimizer not in seen
        if not is_new and not (momentum and _has_momentum(optimizer)):
            return
        mine = [p for g in optimizer.param_groups for p in g["params"] if id(p) in watched]
        if mine:
            _check(where, optimizer, mine, momentum)
            if is_new and is_sparse and not isinstance(optimizer, SGD):
                _warn(where, optimizer, instead)
        seen.add(optimizer)

    handle = register_optimizer_step_pre_hook(look)
    weakref.finalize(owner, handle.remove)
    return handle


def _has_momentum(optimizer: Optimizer) -> bool:
    return any(group.get("momentum") for group in optimizer.param_groups)


def _check(where: str, optimizer: Optimizer, mine: list[Tensor], momentum: float) -> None:
    """Refuse an optimizer that averages gradients again, or has momentum again."""
    if isinstance(optimizer, DistributedOptimizer):
        raise ValueError(  # noqa: TRY004  a wrong choice, not a wrong type
            f"optimizer: DistributedOptimizer averages what {where} has averaged already, expected "
            f"one of both: the plain optimizer with {where}, or DistributedOptimizer and the model "
            "without DistributedDataParallel"
        )
    if momentum:
        check_no_momentum(optimizer, where, set(mine))


def _warn(where: str, optimizer: Optimizer, instead: str) -> None:
    warnings.warn(
        f"optimizer: {type(optimizer).__name__} after gradients that {where} has compressed: it "
        "scales each step by what came before, which a few late elements among zeros spoil, so it "
        f"learns far less than without compression; instead, {instead}",
        stacklevel=4,
    )
