"""Carrying of a compressor's state to another set of parameters, without loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

Sections = dict[str, dict[str, Tensor]]  #: section name to parameter name to tensor


def carried(
    saved: Mapping[str, Any], aside: Mapping[str, Mapping[str, Tensor]], empty: Mapping[str, Any]
) -> tuple[dict[str, Any], Sections]:
    """Return a compressor's state for other parameters, and the state that finds no place in it.

    Args:
        saved: Snapshot of a compressor.
        aside: State of parameters that it did not have, by section and name.
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
        section: {**aside.get(section, {}), **tensors}
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


def sections_of(state: Mapping[str, Any]) -> dict[str, Mapping[str, Tensor]]:
    """Return the parts of a compressor's snapshot that hold tensors by parameter name."""
    return {key: value for key, value in state.items() if isinstance(value, Mapping)}
