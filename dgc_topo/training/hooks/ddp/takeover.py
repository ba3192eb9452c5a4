"""The user's optimizer beside a hook: its momentum moves into the hook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dgc_topo.training.hooks.log import LOG
from dgc_topo.training.optimizer.momentum import common_momentum

#: Key of a parameter group for what has moved, which snapshots of the optimizer keep.
_MOVED = "moved_into_hook"
_NOTHING = {"momentum": 0, "nesterov": False, "weight_decay": 0}


@dataclass(frozen=True, slots=True)
class Takeover:
    """Momentum and weight decay of an SGD, which a compressor is to apply itself.

    Attributes:
        momentum: Its momentum; 0 if there is nothing to take over.
        nesterov: True if it looks ahead.
        decays: Weight decay, by name of those parameters that have some.
        again: True if they had moved before, into another hook.
    """

    momentum: float = 0.0
    nesterov: bool = False
    decays: dict[str, float] = field(default_factory=dict)
    again: bool = False

    def take(
        self, optimizer: Optimizer, parameters: Mapping[str, nn.Parameter]
    ) -> dict[str, Tensor]:
        """Set the optimizer's own to 0; return the momentum that it has collected, by name."""
        if not self.momentum:
            return {}
        groups = _groups_with(optimizer, parameters)
        buffers: dict[str, Tensor] = {}
        for name, parameter in parameters.items():
            if parameter in optimizer.state:
                buffer = optimizer.state[parameter].pop("momentum_buffer", None)
                buffers |= {} if buffer is None else {name: buffer}
        for group in groups:
            if not self.again:
                group[_MOVED] = {key: group[key] for key in _NOTHING}
            group.update(_NOTHING)
        if len(groups) == len(optimizer.param_groups):
            optimizer.defaults.update(momentum=0, nesterov=False)
        return buffers


def takeover_of(
    where: str, optimizer: Optimizer, parameters: Mapping[str, nn.Parameter]
) -> Takeover:
    """Return what a compressor has to take over of an optimizer; nothing is changed yet.

    Only an SGD's momentum can be.  Weight decay goes along with it; without momentum it makes no
    difference who adds it.

    Args:
        where: Name of the hook in errors.
        optimizer: The user's.
        parameters: The model's, by name.

    Raises:
        ValueError: if it is no optimizer of the model, its groups differ in what can't differ, or
            have what DGC does not know.
    """
    if not isinstance(optimizer, Optimizer):
        raise ValueError(  # noqa: TRY004  a wrong argument is a wrong value, as everywhere here
            f"{where}: optimizer is {type(optimizer).__name__}, expected a torch.optim.Optimizer"
        )
    groups = _groups_with(optimizer, parameters)
    if not groups:
        raise ValueError(
            f"{where}: the optimizer holds no parameter of the model, expected the model's own"
        )
    if not isinstance(optimizer, torch.optim.SGD):
        return Takeover()
    again = not any(group["momentum"] for group in groups)
    if again:
        groups = [{**group, **group[_MOVED]} for group in groups if _MOVED in group]
        if not groups:
            return Takeover()
    names = {id(parameter): name for name, parameter in parameters.items()}
    momentum, nesterov = common_momentum(where, groups)
    _check_groups(where, groups, names)
    decays = {
        names[id(parameter)]: float(group["weight_decay"])
        for group in groups
        for parameter in group["params"]
        if group["weight_decay"]
    }
    return Takeover(momentum, nesterov, decays, again)


def tell_takeover(moved: Takeover) -> None:
    """Log what moved from an optimizer into the hook, if anything did."""
    if moved.again:
        LOG.warning(
            "hook: momentum %g of the optimizer moved into another HookState before, and goes on "
            "here; what that one has not sent is lost, unless its state_dict() is loaded here",
            moved.momentum,
        )
    elif moved.momentum:
        decay = f" and weight decay of {len(moved.decays)} parameters" if moved.decays else ""
        LOG.info(
            "hook: momentum %g%s%s moved from the optimizer into DGC, which corrects it for "
            "delayed gradients; the optimizer's are 0 now",
            moved.momentum,
            " (Nesterov)" if moved.nesterov else "",
            decay,
        )


def _groups_with(
    optimizer: Optimizer, parameters: Mapping[str, nn.Parameter]
) -> list[dict[str, Any]]:
    """Return the parameter groups that hold some of the parameters."""
    own = {id(parameter) for parameter in parameters.values()}
    return [g for g in optimizer.param_groups if any(id(p) in own for p in g["params"])]


def _check_groups(
    where: str, groups: Sequence[Mapping[str, Any]], names: Mapping[int, str]
) -> None:
    """Refuse groups that hold parameters of others, whose momentum would be lost."""
    for group in groups:
        if any(id(parameter) not in names for parameter in group["params"]):
            raise ValueError(
                f"{where}: a parameter group holds parameters of the model and others, expected "
                "groups of their own: momentum of the model's moves into the hook"
            )
