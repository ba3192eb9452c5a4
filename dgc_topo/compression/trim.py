"""Trimming: of each group's candidates exactly the largest, whatever their position.

One sort over all groups at once, so that a model of many small layers costs no more than one of
few large ones.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dgc_topo.compression.arrays import ordered_at, places_of, repeated

_LOW = 0x7FFFFFFF  # the bits of a float32 without its sign


class Trimmed(NamedTuple):
    """What is left of the candidates, and what that says about each group."""

    places: Tensor  #: ascending places in the list of candidates that are kept, shape (n,), int64
    sizes: Tensor  #: candidates that each group had, shape (num_groups,), int64
    smallest: Tensor  #: smallest magnitude kept, by group, float32; 0 where there were too few


def trim(magnitudes: Tensor, ends: Tensor, counts: Tensor) -> Trimmed:
    """Keep the *counts* largest magnitudes of each group; of equal ones those that come first.

    Args:
        magnitudes: Of all candidates, group by group, shape (n,), float32, none negative.
        ends: Where each group's candidates end, shape (num_groups,), int64, ascending.
        counts: How many of each group to keep, shape (num_groups,), int64; all if it has fewer.
    """
    sizes = ends.diff(prepend=ends.new_zeros(1))  # none of no groups
    starts = ends - sizes
    wanted = torch.minimum(counts, sizes)
    numbers = torch.arange(len(sizes), dtype=torch.int64, device=ends.device)
    # The bits of floats that are not negative are ordered as the floats are: one integer sorts by
    # group first and by falling magnitude within it.
    keys = magnitudes.view(torch.int32).to(torch.int64).neg_().add_(_LOW)
    keys.add_(repeated(numbers << 32, sizes, len(keys)))
    limits = _limits(keys, starts, wanted)
    places = places_of(keys <= repeated(limits, sizes, len(keys)))
    if len(places) > int(wanted.sum()):  # of equal magnitudes at a limit, not all fit
        group = repeated(numbers, sizes, len(keys))[places]
        places = places[_first_of_equals(keys[places], group, limits, wanted)]
    bits = (_LOW - (limits & 0xFFFFFFFF)).to(torch.int32)
    full = (counts > 0) & (sizes >= counts)
    return Trimmed(places, sizes, torch.where(full, bits.view(torch.float32), 0.0))


def _limits(keys: Tensor, starts: Tensor, wanted: Tensor) -> Tensor:
    """Return the largest key that each group keeps, shape (num_groups,); -1 where it keeps none."""
    if not len(keys):
        return torch.full_like(starts, -1)
    last = (starts + wanted - 1).clamp_(0, len(keys) - 1)
    return torch.where(wanted > 0, ordered_at(keys, last), -1)


def _first_of_equals(keys: Tensor, group: Tensor, limits: Tensor, wanted: Tensor) -> Tensor:
    """Return a mask of *keys*, none above its group's limit, that leaves *wanted* of each group.

    What goes are the last of the keys equal to the limit.
    """
    tied = keys == limits[group]
    num_tied, num_all = (
        torch.zeros_like(wanted).index_add_(0, group, weight)
        for weight in (tied.to(torch.int64), torch.ones_like(group))
    )
    room = wanted - (num_all - num_tied)
    rank = tied.cumsum(0) - (num_tied.cumsum(0) - num_tied)[group]  # from 1, within the group
    return ~tied | (rank <= room[group])
