"""Carrying of a compressor's state to another set of parameters, without loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dgc_topo.scalars import plain_int

Sections = dict[str, dict[str, Tensor]]  #: section name to parameter name to tensor


def carried(
    saved: Mapping[str, Any], aside: Mapping[str, Any], empty: Mapping[str, Any]
) -> tuple[dict[str, Any], Sections]:
    """Return a compressor's state for other parameters, and the state that finds no place in it.

    Args:
        saved: Snapshot of a compressor.
        aside: State of parameters that it did not have, in the form of a snapshot, or empty.
        empty: Snapshot of a new compressor; what neither *saved* nor *aside* knows stays as here.

    Raises:
        ValueError: if *saved* is no snapshot of such a compressor.
    """
    wanted = sections_of(empty)
    if sections_of(saved).keys() != wanted.keys():
        raise ValueError(
            f"compressor state: sections {sorted(sections_of(saved))}, expected {sorted(wanted)}: "
            "a snapshot taken with the same settings"
        )
    known = {
        section: {**sections_of(aside).get(section, {}), **tensors}
        for section, tensors in sections_of(saved).items()
    }
    state: dict[str, Any] = {**saved}
    for section, places in wanted.items():
        state[section] = {name: known[section].get(name, tensor) for name, tensor in places.items()}
    left = {
        section: {name: t for name, t in tensors.items() if name not in wanted[section]}
        for section, tensors in known.items()
    }
    return state, {section: tensors for section, tensors in left.items() if tensors}


def as_snapshot(sections: Sections, like: Mapping[str, Any]) -> dict[str, Any]:
    """Return sections in the form of a compressor's snapshot, so that they are shared out as such.

    Args:
        sections: State of some parameters; empty stays empty.
        like: The snapshot of the others.
    """
    if not sections:
        return {}
    return {**{key: like[key] for key in like if key not in sections_of(like)}, **sections}


def sections_of(state: Mapping[str, Any]) -> dict[str, Mapping[str, Tensor]]:
    """Return the parts of a compressor's snapshot that hold tensors by parameter name."""
    return {key: value for key, value in state.items() if isinstance(value, Mapping)}


def check_state(where: str, own: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuse our part of a snapshot if it is of another rule or model, or counts no steps.

    Args:
        where: What to call the owner in errors.
        own: Our part.
        expected: Values that it has to hold.

    Raises:
        ValueError: naming what differs.
    """
    for key, value in expected.items():
        if own.get(key) != value:
            raise ValueError(f"{where} state: {key} {own.get(key)!r}, expected {value!r} as here")
    for key in ("steps", "skipped_steps"):
        plain_int(f"{where} state: {key}", own.get(key))
