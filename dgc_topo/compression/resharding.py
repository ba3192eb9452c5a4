"""States of compressors for another number of workers: no gradient mass is lost.

Velocities and residuals are parts of a sum over the workers, so that worker p of M takes over those
of the former workers p, p + M, p + 2M, ..., added up; a worker without predecessors begins with
zeros.  The sums over all workers stay what they were, to rounding.  What follows the sum, such as
the momentum of tensors that travel dense, is the same on every worker, and stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

#: Sections that are parts of a sum over the workers.
_SUMMED = frozenset({"velocity", "residual", "sent_histogram"})
_AGES = "last_sent"
#: Beginning of the names of sections of which every worker gets the mean.
KEPT = "kept."
#: Keys of a state whose tensors are sorted by parameter first, then by section.
_BY_PARAMETER = frozenset({"kind", "step", "parameters", "settings", "place"})


def is_shared_out(state: object) -> bool:
    """Return True if there is a compressor's state in *state*, however deep."""
    if not isinstance(state, Mapping):
        return False
    if isinstance(state.get("compressor"), str) or state.keys() == _BY_PARAMETER:
        return True
    return any(is_shared_out(inner) for inner in state.values())


def state_for(states: Sequence[Any], place: int, num_workers: int) -> Any:
    """Return the state of one worker out of those of all former workers.

    Args:
        states: What ``state_dict`` returned on each worker: that of a compressor, or of something
            that has compressors in it.
        place: Number of the worker, from 0.
        num_workers: New number of workers.
    """
    own = states[place % len(states)]
    if not isinstance(own, Mapping):
        return own
    if isinstance(own.get("compressor"), str):
        return _of_compressor(states, place, num_workers)
    if own.keys() == _BY_PARAMETER:
        return {
            **own,
            "parameters": _by_parameter(states, place, num_workers),
            "place": {"rank": place, "world_size": num_workers},
        }
    return {
        key: state_for([each[key] for each in states], place, num_workers)
        if all(isinstance(each, Mapping) and key in each for each in states)
        else own[key]
        for key in own
    }


def _of_compressor(states: Sequence[Any], place: int, num_workers: int) -> dict[str, Any]:
    first = states[0]
    found = dict(states[place % len(states)])
    for section, tensors in first.items():
        if isinstance(tensors, Mapping) and all(isinstance(t, Tensor) for t in tensors.values()):
            found[section] = {
                name: _merged(
                    section,
                    [each[section][name] for each in states],
                    place,
                    num_workers,
                    first.get("step", 0),  # only ages need it, which have one
                )
                for name in tensors
            }
    return found


def _by_parameter(states: Sequence[Any], place: int, num_workers: int) -> dict[str, Any]:
    first = states[0]
    return {
        name: {
            section: _merged(
                section,
                [each["parameters"][name][section] for each in states],
                place,
                num_workers,
                first["step"],
            )
            for section in sections
        }
        for name, sections in first["parameters"].items()
    }


def _merged(
    section: str, tensors: Sequence[Tensor], place: int, num_workers: int, step: int
) -> Tensor:
    """Return a worker's tensor of a section out of those of all former workers."""
    own = tensors[place::num_workers]
    if section == _AGES:  # the oldest mass that waits; a new worker's begins to wait now
        if not own:
            return torch.full_like(tensors[0], step)
        return torch.stack(list(own)).amin(0)
    if section in _SUMMED:
        total = torch.zeros_like(tensors[0], dtype=torch.float64)
        for tensor in own:
            total += tensor
        return total.to(tensors[0].dtype)
    if section.startswith(KEPT):
        return (
            torch.stack([each.to(torch.float64) for each in tensors]).mean(0).to(tensors[0].dtype)
        )
    return tensors[0]
