"""Selection rules: they pick the elements of the residual that a step sends.

The rules of this package send the same elements, exactly the largest magnitudes of each group; they
differ only in their cost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from dgc_topo.compression.layout import FlatLayout, Groups
from dgc_topo.compression.pool import Watcher

#: A rule: function of the residual, shape (length,), its layout and the density; returns the
#: indices to send, shape (n,), int64, strictly ascending.  The residual is finite and must not be
#: modified.
Selection = Callable[[Tensor, FlatLayout, float], Tensor]


class Selector(Protocol):
    """Rule that picks the elements to send; it may observe the residual while it is written."""

    def begin(self, density: float) -> Watcher | None:
        """Return the observer of the tiles of the residual, None if the rule needs none.

        Args:
            density: Fraction to send, above 0 and below 1.
        """

    def pick(self, residual: Tensor, density: float) -> Tensor:
        """Return the indices of the elements to send, once per `begin`.

        Args:
            residual: Shape (length,), float32, finite; not to be modified.
            density: As in `begin`.

        Returns:
            Indices into *residual*, shape (n,), int64, strictly ascending.
        """


class RuleSelector:
    """A rule that looks at the finished residual only."""

    def __init__(self, rule: Selection, layout: FlatLayout) -> None:
        self._rule = rule
        self._layout = layout

    def begin(self, density: float) -> None:
        """Return None."""

    def pick(self, residual: Tensor, density: float) -> Tensor:
        """Return the indices that the rule selects."""
        return self._rule(residual, self._layout, density)


def top_k_per_layer(residual: Tensor, layout: FlatLayout, density: float) -> Tensor:
    """Select exactly the largest magnitudes of each layer by torch.topk, `entries_of` of them.

    Ties go to the lower index, so every device selects the same.  Zeros are never sent: a layer
    with fewer nonzero elements sends only those.
    """
    return top_k(residual, Groups.per_layer(layout), density)


def top_k_of_all(residual: Tensor, layout: FlatLayout, density: float) -> Tensor:
    """Select exactly the largest magnitudes of the whole model; otherwise as `top_k_per_layer`."""
    return top_k(residual, Groups.whole(layout), density)


def top_k(residual: Tensor, groups: Groups, density: float) -> Tensor:
    """Select exactly the largest magnitudes of each group; the reference for the other rules."""
    places = zip(groups.offsets, groups.offsets[1:], groups.counts(density), strict=False)
    picked = [largest(residual[start:stop].abs(), count) + start for start, stop, count in places]
    return torch.cat([*picked, torch.empty(0, dtype=torch.int64, device=residual.device)])


def largest(magnitudes: Tensor, count: int) -> Tensor:
    """Return the ascending indices of the *count* largest elements, none of them zero."""
    if not count:
        return torch.empty(0, dtype=torch.int64, device=magnitudes.device)
    values, indices = torch.topk(magnitudes, count, sorted=False)
    threshold = values.min()
    # topk does not define which of equal elements it returns: those at the limit are chosen here.
    above = indices[values > threshold]
    tied = ((magnitudes == threshold) & (threshold > 0)).nonzero().flatten()
    return torch.cat([above, tied[: count - len(above)]]).sort().values
