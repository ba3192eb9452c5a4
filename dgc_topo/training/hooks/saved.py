"""A hook's state as checkpoints hold it, checked before any of it is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from dgc_topo.scalars import plain_int
from dgc_topo.training.hooks.buckets import ParameterState

KIND = "dgc-topo hook"
_SECTIONS = {"velocity", "residual", "momentum", "momentum_after_sum", "last_sent"}


class Saved(NamedTuple):
    """A hook's state.

    Attributes:
        step: Steps done.
        parameters: State of each parameter that has some.
    """

    step: int
    parameters: dict[str, ParameterState]

    def as_dict(self) -> dict[str, object]:
        """Return it as plain values and tensors."""
        return {"kind": KIND, "step": self.step, "parameters": self.parameters}


def checked_state(state: Mapping[str, object], parameters: Mapping[str, Tensor]) -> Saved:
    """Return a saved state, with tensors of its own on the parameters' device.

    Args:
        state: What `Saved.as_dict` returned.
        parameters: The model's, by name.

    Raises:
        ValueError: if it is of another kind, or names or shapes are not the model's.
    """
    if dict(state).get("kind") != KIND:
        raise ValueError("hook state: of another kind, expected what state_dict() returned")
    found = state.get("parameters")
    if not isinstance(found, Mapping):
        raise ValueError(  # noqa: TRY004  a bad file is a bad value
            "hook state: no parameters, expected what state_dict() returned"
        )
    step = plain_int("hook state: step", state.get("step"), 0)
    return Saved(step, {name: _checked(name, each, parameters) for name, each in found.items()})


def _checked(name: str, saved: object, parameters: Mapping[str, Tensor]) -> ParameterState:
    parameter = parameters.get(name)
    if parameter is None:
        raise ValueError(f"hook state: parameter {name!r}, expected only those of this model")
    if not isinstance(saved, Mapping) or not _SECTIONS.issuperset(saved):
        raise ValueError(f"hook state: of {name!r}, expected tensors by {sorted(_SECTIONS)}")
    own: ParameterState = {}
    for section, tensor in saved.items():
        if not isinstance(tensor, Tensor) or tensor.shape != parameter.shape or tensor.is_meta:
            raise ValueError(
                f"hook state: {section} of {name!r} does not fit, expected a tensor of shape "
                f"{tuple(parameter.shape)}"
            )
        dtype = torch.int32 if section == "last_sent" else torch.float32
        own[section] = tensor.detach().to(parameter.device, dtype, copy=True)
    return own
