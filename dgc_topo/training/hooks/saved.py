"""A hook's state as checkpoints hold it, checked before any of it is used."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from dgc_topo.compression.balance import num_cells
from dgc_topo.scalars import plain_int
from dgc_topo.training.carrying import ParameterState

_INTEGERS = {"last_sent": torch.int32, "shares": torch.int64}


class Saved(NamedTuple):
    """A hook's state.

    Attributes:
        kind: Name of the hook, which no other one's state is for.
        step: Steps done.
        parameters: State of each parameter that has some.
    """

    kind: str
    step: int
    parameters: dict[str, ParameterState]

    def as_dict(self) -> dict[str, object]:
        """Return it as plain values and tensors."""
        return {"kind": self.kind, "step": self.step, "parameters": self.parameters}


def checked_state(
    where: str,
    state: Mapping[str, object],
    kind: str,
    shapes: Mapping[str, torch.Size],
    sections: Collection[str],
) -> Saved:
    """Return a saved state, with tensors of its own.

    Args:
        where: Name of the hook in errors.
        state: What `Saved.as_dict` returned.
        kind: See `Saved`.
        shapes: Shape of each parameter's state, by name.
        sections: Sections that a parameter's state may have.

    Raises:
        ValueError: if it is of another kind, or names, shapes or sections are others.
    """
    if dict(state).get("kind") != kind:
        raise ValueError(f"{where} state: of another kind, expected what state_dict() returned")
    found = state.get("parameters")
    if not isinstance(found, Mapping):
        raise ValueError(  # noqa: TRY004  a bad file is a bad value
            f"{where} state: no parameters, expected what state_dict() returned"
        )
    step = plain_int(f"{where} state: step", state.get("step"), 0)
    for name in found:
        if name not in shapes:
            raise ValueError(
                f"{where} state: parameter {name!r}, expected only those of this model"
            )
    checked = {
        name: _checked(f"{where} state", name, each, shapes[name], sections)
        for name, each in found.items()
    }
    return Saved(kind, step, checked)


def check_settings(where: str, saved: object, here: Mapping[str, object], advice: str) -> None:
    """Refuse a state that was made with another momentum or weight decay.

    Args:
        where: Name of the hook in errors.
        saved: Settings in the state.
        here: Settings now, by name.
        advice: What to do instead.

    Raises:
        ValueError: naming the first difference.
    """
    found = saved if isinstance(saved, Mapping) else {}
    for name, value in here.items():
        if found.get(name) != value:
            raise ValueError(
                f"{where} state: {name} {found.get(name)!r}, expected {value!r} as here; {advice}"
            )


def _checked(
    where: str, name: str, saved: object, shape: torch.Size, sections: Collection[str]
) -> ParameterState:
    if not isinstance(saved, Mapping) or not set(sections).issuperset(saved):
        found = sorted(map(str, saved)) if isinstance(saved, Mapping) else type(saved).__name__
        raise ValueError(
            f"{where}: {found} of {name!r}, expected tensors by {sorted(sections)}: a hook with "
            "the density and momentum of the saved one.  (Load an optimizer's snapshot after "
            "the hook was made: momentum that moved into a hook is 0 there)"
        )
    own: ParameterState = {}
    for section, tensor in saved.items():
        fits = (num_cells(shape.numel()),) if section == "shares" else shape
        if not isinstance(tensor, Tensor) or tensor.shape != fits or tensor.is_meta:
            size = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(
                f"{where}: {section} of {name!r} does not fit: {size}, expected a tensor of shape "
                f"{tuple(fits)}"
            )
        dtype = _INTEGERS.get(section, torch.float32)
        own[section] = tensor.detach().to(dtype, copy=True)
    return own
