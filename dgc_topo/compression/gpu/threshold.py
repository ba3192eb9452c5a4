"""`Threshold` on a GPU, where kernels list the candidates and pick among them."""

from __future__ import annotations

import torch
from torch import Tensor

from dgc_topo.compression.arrays import constant
from dgc_topo.compression.gpu.blocks import Blocks
from dgc_topo.compression.gpu.candidates import Candidates, Found, Learned, Lists
from dgc_topo.compression.groups import Groups
from dgc_topo.compression.selection import largest
from dgc_topo.compression.threshold import Threshold

#: Elements of a group's sample, at least; more than on a CPU, so that lists need little to spare.
_LEAST_SAMPLE = 8192


class FusedThreshold(Threshold):
    """As `Threshold`, and the same elements, but in a few launches.

    Args:
        groups: Who competes with whom.
        blocks: Of `FusedAccumulation`.
        reuse: As `Threshold`.
    """

    least_sample = _LEAST_SAMPLE

    def __init__(self, groups: Groups, blocks: Blocks, *, reuse: bool = True) -> None:
        super().__init__(groups, blocks.device, reuse=reuse)
        self._blocks = blocks
        self._lists: tuple[list[int], Lists] | None = None
        self._candidates: Candidates | None = None

    def begin(self, density: float) -> Candidates | None:
        """Return what lists the candidates of this step, if the last one suggests thresholds."""
        smallest = self.last_smallest(density)
        self._candidates = None
        if smallest is not None:
            learned = Learned(smallest, self.slack, self.aim)
            self._candidates = Candidates(self._lists_now(), learned)
        return self._candidates

    def pick(self, residual: Tensor, density: float) -> Tensor:
        """Return the indices of the largest elements, strictly ascending."""
        self.step += 1
        listed, self._candidates = self._candidates, None
        if listed is not None:
            found = listed.choose()
        else:
            nothing = torch.empty(0, dtype=torch.int64, device=residual.device)
            self.smallest = torch.zeros_like(self.slack)
            found = Found(nothing, torch.ones_like(self.slack, dtype=torch.bool))
        if found.missed is None or not len(residual):
            return found.indices
        return self._completed(residual, found.indices, found.missed)

    def _lists_now(self) -> Lists:
        if self._lists is None or self._lists[0] != self.counts:
            self._lists = None  # gives its memory back first
            self._lists = list(self.counts), Lists(self.groups, self.counts, self._blocks)
        return self._lists[1]

    def _completed(self, residual: Tensor, indices: Tensor, missed: Tensor) -> Tensor:
        """Return what is to be sent: *indices*, but of the *missed* groups what a sample tells."""
        listed = self._listed_by_sample(residual, missed)
        found = listed.choose()
        assert self.smallest is not None  # `pick` has seen to it
        self.smallest = torch.where(missed, listed.learned.smallest, self.smallest)
        indices = self._replaced(indices, missed, found.indices)
        return indices if found.missed is None else self._exact(residual, indices, found.missed)

    def _listed_by_sample(self, residual: Tensor, missed: Tensor) -> Candidates:
        """List candidates of the *missed* groups alone."""
        sampled = self._sampled(residual, missed.nonzero().flatten().tolist())
        lists, slack = self._lists_now(), torch.ones_like(self.slack)
        learned = Learned(torch.where(missed, sampled, torch.inf), slack, slack.clone())
        listed = Candidates(lists, learned, wanted=torch.where(missed, lists.wanted, 0))
        listed.watch(0, residual)
        return listed

    def _exact(self, residual: Tensor, indices: Tensor, missed: Tensor) -> Tensor:
        """As `_completed`, with torch.topk: too many of a group are equal, or its sample misled."""
        assert self.smallest is not None
        picked = []
        for group in missed.nonzero().flatten().tolist():
            start, stop = self.groups.offsets[group : group + 2]
            magnitudes = residual[start:stop].abs()
            best = largest(magnitudes, self.counts[group])
            enough = len(best) == self.counts[group]
            self.smallest[group] = magnitudes[best].min() if enough else 0.0
            picked.append(best + start)
        return self._replaced(indices, missed, torch.cat(picked))

    def _replaced(self, indices: Tensor, missed: Tensor, others: Tensor) -> Tensor:
        """Return *indices*, ascending, with *others* in the place of those of *missed* groups."""
        if not len(indices):
            return others
        ends = constant(self.groups.offsets[1:], indices.device)
        kept = indices[~missed[torch.searchsorted(ends, indices, right=True)]]
        return torch.cat([kept, others]).sort().values
