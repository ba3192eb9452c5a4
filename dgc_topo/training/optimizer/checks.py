"""Checks of the user's optimizer, beside a hook that averages gradients before it sees them."""

from __future__ import annotations

import sys
import warnings
import weakref
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, NamedTuple
from weakref import WeakSet

from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import SGD, Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from dgc_topo.training.optimizer.distributed import DistributedOptimizer

_INSTEAD = (
    "dt.DistributedOptimizer(optimizer, model, density=...) without DistributedDataParallel "
    "compresses its updates, or set density=1"
)


class Hint(NamedTuple):
    """Parts of errors and warnings: those of DDP's hook by default.

    Attributes:
        where: Name of what averages.
        home: Call in which an SGD's momentum belongs.
        instead: What to do instead of an adaptive optimizer.
    """

    where: str = "dt.hook"
    home: str = "dt.HookState(..., optimizer=optimizer)"
    instead: str = _INSTEAD


DDP_HINT = Hint()


def watch_optimizers(
    owner: object,
    parameters: Mapping[str, Tensor],
    *,
    momentum: float,
    is_sparse: bool,
    scaler: object | None = None,
    skips: Callable[[Optimizer, Sequence[Tensor]], bool] = lambda *_: False,
    hint: Hint = DDP_HINT,
) -> RemovableHandle:
    """Look at every optimizer of some parameters before each of its steps.

    The step is refused if the optimizer would apply momentum a second time, averages gradients
    itself, or gets them from a loss scaler that the owner does not know.  A warning is given, once
    for each optimizer, if it is poor on compressed gradients.

    Args:
        owner: What averages the gradients; the watch ends with it, and does not keep it alive.
        parameters: Those whose gradients it averages.
        momentum: The momentum that it applies to them.
        is_sparse: True if it sends only some elements.
        scaler: What it knows the scale of the loss from, or None.
        skips: Function of the optimizer and the gradients that returns True if the step must not
            use them; they are set to None then, and no optimizer moves what has none.
        hint: What errors and warnings say.

    Returns:
        Handle whose ``remove`` ends the watch.
    """
    watched = {id(parameter) for parameter in parameters.values()}
    seen: WeakSet[Optimizer] = WeakSet()
    where = hint.where

    def look(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        del args, kwargs
        own = [p for group in optimizer.param_groups for p in group["params"] if id(p) in watched]
        if not own:
            return
        _check_averaging(where, optimizer)
        found = _momentum_of(optimizer, watched)
        if momentum and found:
            raise ValueError(_twice(hint, optimizer, found, momentum))
        if is_sparse:
            _check_scaler(where, scaler)
        if is_sparse and optimizer not in seen:
            _warn_if_poor(hint, optimizer, found)
        seen.add(optimizer)
        if skips(optimizer, [p.grad for p in own if p.grad is not None]):
            _drop_gradients(own)

    handle = register_optimizer_step_pre_hook(look)
    weakref.finalize(owner, handle.remove)
    return handle


def _drop_gradients(parameters: Sequence[Tensor]) -> None:
    for parameter in parameters:
        parameter.grad = None


def _check_averaging(where: str, optimizer: Optimizer) -> None:
    if isinstance(optimizer, DistributedOptimizer):
        raise ValueError(  # noqa: TRY004  a wrong choice, not a wrong type
            f"optimizer: DistributedOptimizer averages what {where} has averaged already, expected "
            f"one of both: the plain optimizer with {where}, or DistributedOptimizer and the model "
            "without DistributedDataParallel"
        )


def _momentum_of(optimizer: Optimizer, watched: Container[int]) -> tuple[float, int] | None:
    """Return the momentum of watched parameters, and its group's number; None without any."""
    for index, group in enumerate(optimizer.param_groups):
        momentum = group.get("momentum", 0) or group.get("betas", (0,))[0]
        if momentum and any(id(p) in watched for p in group["params"]):
            return float(momentum), index
    return None


def _twice(hint: Hint, optimizer: Optimizer, found: tuple[float, int], momentum: float) -> str:
    text = (
        f"optimizer: {type(optimizer).__name__} has momentum {found[0]:g} in parameter group "
        f"{found[1]}, expected 0: {hint.where} applies momentum {momentum:g} already, and it "
        "would count twice; "
    )
    if not isinstance(optimizer, SGD):
        return f"{text}use momentum=0 in the call, or torch.optim.SGD without momentum"
    return (
        f"{text}momentum belongs in {hint.home} alone. Where it came back later: a schedule may "
        "change the learning rate alone (OneCycleLR and CyclicLR with cycle_momentum=False), and "
        "optimizer.load_state_dict of a checkpoint with momentum comes before that call"
    )


def _check_scaler(where: str, known: object | None) -> None:
    """Refuse a step that a `torch.amp.GradScaler` makes, which the owner was not told of."""
    frame = sys._getframe(1)  # noqa: SLF001  # a scaler leaves no other trace in a step
    while frame is not None:
        if frame.f_globals.get("__name__") == "torch.amp.grad_scaler":
            scaler = frame.f_locals.get("self")
            if scaler is None or scaler is known or not scaler.is_enabled():
                return
            if known is None or isinstance(known, GradScaler):  # else one that wraps it
                which = "a" if known is None else "another"
                raise ValueError(
                    f"{where}: {which} GradScaler scales the loss, expected scaler= with it in the "
                    "call: what is kept for later steps must not depend on the scale"
                )
            return
        frame = frame.f_back  # type: ignore[assignment]  # None at the end


def _warn_if_poor(hint: Hint, optimizer: Optimizer, momentum: tuple[float, int] | None) -> None:
    """Warn of an optimizer that learns less from compressed gradients."""
    if not isinstance(optimizer, SGD):
        _warn(hint.where, optimizer, hint.instead)
    elif momentum:
        _warn_of_momentum(hint.where, momentum[0], hint.home)


def _warn(where: str, optimizer: Optimizer, instead: str) -> None:
    warnings.warn(
        f"optimizer: {type(optimizer).__name__} after gradients that {where} has compressed: it "
        "scales each step by what came before, which a few late elements among zeros spoil, so it "
        f"learns far less than without compression; instead, {instead}",
        stacklevel=5,
    )


def _warn_of_momentum(where: str, momentum: float, home: str) -> None:
    warnings.warn(
        f"optimizer: SGD's momentum {momentum:g} after gradients that {where} has compressed gives "
        f"late elements the wrong momentum, so it learns less; give it to {home}",
        stacklevel=5,
    )
