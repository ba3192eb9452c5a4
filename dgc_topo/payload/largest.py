"""The largest magnitudes of each group of values; of equal ones the first."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


def places_of(mask: Tensor) -> Tensor:
    """Return the ascending places of the true elements of a 1-D *mask*, shape (n,), int64."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.nonzero().flatten()


def repeated(values: Tensor, lengths: Tensor, total: int) -> Tensor:
    """Repeat each of *values* by its length in *lengths*; *total* elements in all."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.repeat(values.numpy(), lengths.numpy()))
    return values.repeat_interleave(lengths, output_size=total)


def ordered_at(values: Tensor, places: Tensor) -> Tensor:
    """Return the elements at *places*, shape (n,), int64, of the sorted *values*."""
    if values.device.type == "cpu":
        found = np.partition(values.numpy(), np.unique(places.numpy()))
        return torch.from_numpy(found)[places]
    return values.sort().values[places]


_LOW = 0x7FFFFFFF  # the bits of a float32 without its sign


class Trimmed(NamedTuple):
    """Candidates that are left, and each group's numbers.

    Attributes:
        places: Ascending places in the list of candidates that are kept, shape (n,), int64.
        sizes: Candidates that each group had, shape (num_groups,), int64.
        smallest: Smallest magnitude kept, by group, float32; 0 where there were too few.
    """

    places: Tensor
    sizes: Tensor
    smallest: Tensor


def trim(magnitudes: Tensor, ends: Tensor, counts: Tensor) -> Trimmed:
    """Keep the *counts* largest magnitudes of each group; of equal ones the first.

    Args:
        magnitudes: Magnitudes of all candidates, group by group, shape (n,), float32, none
            negative.
        ends: End of each group's candidates, shape (num_groups,), int64, ascending.
        counts: Number to keep of each group, shape (num_groups,), int64; all if it has fewer.
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

    Of the keys equal to the limit, the last ones are left out.
    """
    tied = keys == limits[group]
    num_tied, num_all = (
        torch.zeros_like(wanted).index_add_(0, group, weight)
        for weight in (tied.to(torch.int64), torch.ones_like(group))
    )
    room = wanted - (num_all - num_tied)
    rank = tied.cumsum(0) - (num_tied.cumsum(0) - num_tied)[group]  # from 1, within the group
    return ~tied | (rank <= room[group])
