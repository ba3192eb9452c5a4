"""Selection: which elements of the residual are sent in this step."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from dgc_topo.compression.layout import FlatLayout


class Selection(Protocol):
    """A rule that picks the elements to send; it sees all layers at once.

    It may therefore batch small layers, keep thresholds between steps (as an object with state),
    or select over the whole model instead of per layer.
    """

    def __call__(self, residual: Tensor, layout: FlatLayout, density: float) -> Tensor:
        """Return the indices of the elements to send.

        Args:
            residual: Shape (length,), float32, finite; not to be modified.
            layout: Where each compressed tensor lies in *residual*.
            density: Fraction to send, above 0 and below 1.

        Returns:
            Indices into *residual*, shape (n,), int64, strictly ascending.
        """


def layer_count(num_elements: int, density: float) -> int:
    """Return how many of a layer's elements are sent: ``round(density * n)``, but at least one."""
    return min(num_elements, max(1, round(density * num_elements)))


def top_k_per_layer(residual: Tensor, layout: FlatLayout, density: float) -> Tensor:
    """Select exactly the largest magnitudes of each layer, `layer_count` of them.

    Ties go to the lower index, so every device selects the same.  Zeros are never sent: a layer
    with fewer nonzero elements sends only those.
    """
    picked = [
        _top_k(residual[place].abs(), layer_count(place.stop - place.start, density)) + place.start
        for _, place in layout.slices()
    ]
    if not picked:
        return torch.empty(0, dtype=torch.int64, device=residual.device)
    return torch.cat(picked)


def _top_k(magnitudes: Tensor, count: int) -> Tensor:
    """Return the ascending indices of the *count* largest elements, none of them zero."""
    if not count:
        return torch.empty(0, dtype=torch.int64, device=magnitudes.device)
    values, indices = torch.topk(magnitudes, count, sorted=False)
    threshold = values.min()
    # topk leaves open which of equal elements it returns, so those at the threshold are taken anew.
    above = indices[values > threshold]
    tied = ((magnitudes == threshold) & (threshold > 0)).nonzero().flatten()
    return torch.cat([above, tied[: count - len(above)]]).sort().values
