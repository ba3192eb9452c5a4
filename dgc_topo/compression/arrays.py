"""Small operations on 1-D tensors, each done the way that is fast on its device.

On a CPU NumPy does several of them many times as fast as torch.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


@lru_cache(maxsize=64)
def constant(values: tuple[int, ...], device: torch.device) -> Tensor:
    """Return *values* as int64 on *device*: copied there once, and not to be modified."""
    return torch.tensor(values, dtype=torch.int64, device=device)


def places_of(mask: Tensor) -> Tensor:
    """Return the ascending places of the true elements of a 1-D *mask*, shape (n,), int64."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.nonzero().flatten()


def repeated(values: Tensor, lengths: Tensor, total: int) -> Tensor:
    """Return each of *values* as often as *lengths* says, *total* elements in all."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.repeat(values.numpy(), lengths.numpy()))
    return values.repeat_interleave(lengths, output_size=total)


def ordered_at(values: Tensor, places: Tensor) -> Tensor:
    """Return what would be at *places*, shape (n,), int64, if *values* were sorted."""
    if values.device.type == "cpu":
        found = np.partition(values.numpy(), np.unique(places.numpy()))
        return torch.from_numpy(found)[places]
    return values.sort().values[places]


def exceeding(
    values: Tensor, threshold: float | Tensor, scratch: Tensor, above: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the ascending places of the magnitudes above *threshold*, and these magnitudes.

    Args:
        values: Shape (n,), float32.
        threshold: One for all, or one for each.
        scratch: Shape (n,), float32; overwritten.
        above: Shape (n,), bool; overwritten.
    """
    if values.device.type != "cpu":
        magnitudes = torch.abs(values, out=scratch)
        places = torch.gt(magnitudes, threshold, out=above).nonzero().flatten()
        return places, magnitudes[places]
    found, passes = np.abs(values.numpy(), out=scratch.numpy()), above.numpy()
    # Memory that is new for every tile would cost more than the comparison.
    limit = threshold.numpy() if isinstance(threshold, Tensor) else threshold
    at = np.flatnonzero(np.greater(found, limit, out=passes))
    return torch.from_numpy(at), torch.from_numpy(found[at])
