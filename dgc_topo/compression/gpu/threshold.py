"""Selection by thresholds on a GPU (`FusedThreshold`): kernels list and choose the candidates."""

from __future__ import annotations

import torch
from torch import Tensor

from dgc_topo.compression.gpu import selection_kernels as kernels
from dgc_topo.compression.gpu.blocks import Blocks, spans
from dgc_topo.compression.gpu.candidates import Candidates, Lists
from dgc_topo.compression.layout import Groups
from dgc_topo.compression.pool import constant
from dgc_topo.compression.selection import largest
from dgc_topo.compression.threshold import Tail, Threshold

CHUNK = 1024  #: elements that a program reads at once
_CHUNKS = 16  #: times that a program does so
DIGITS = 3  #: digits of a threshold; its error of 2**-16 adds hardly any candidates
_VALUES: int = kernels.VALUES.value


class Search:
    """Search for a threshold per group that just enough elements exceed, and hardly more.

    Args:
        groups: Groups of elements; each sends its own largest.
        device: Device of the residual.
    """

    def __init__(self, groups: Groups, device: torch.device) -> None:
        offsets = torch.tensor(groups.offsets, dtype=torch.int64, device="cpu")
        self._begin = offsets.to(device)
        self._group, self._first = spans(offsets.diff(), CHUNK * _CHUNKS, device)

    def thresholds(self, residual: Tensor, lists: Lists, searched: Tensor) -> Tensor:
        """Return the threshold of each *searched* group, infinity for others.

        Args:
            residual: The finished residual.
            lists: Its counters are used here, and stay changed.
            searched: True for the groups to search, shape (num_groups,), bool.
        """
        lists.clear()
        wanted = torch.where(searched, lists.wanted, 0)
        found = torch.empty(len(wanted), dtype=torch.float32, device=residual.device)
        with lists.blocks.on_device():
            for digit in range(DIGITS):
                kernels.count_everywhere[(len(self._group),)](
                    self._group,
                    self._first,
                    self._begin,
                    wanted,
                    residual,
                    lists.histograms,
                    digit=digit,
                    digits=kernels.DIGITS,
                    values=_VALUES,
                    chunk=CHUNK,
                    chunks=_CHUNKS,
                )
            kernels.write_thresholds[(len(wanted),)](
                wanted,
                lists.histograms,
                found,
                known=DIGITS,
                digits=kernels.DIGITS,
                values=_VALUES,
            )
        return found


class FusedThreshold(Threshold):
    """Counterpart of `Threshold` that finds the same elements in a few launches.

    If the last step suggests no thresholds, the whole residual is searched for them: on a GPU that
    is faster than drawing and sorting samples.

    Args:
        groups: Groups of elements; each sends its own largest.
        blocks: Blocks of `FusedAccumulation`.
        reuse: As for `Threshold`.
    """

    def __init__(self, groups: Groups, blocks: Blocks, *, reuse: bool = True) -> None:
        super().__init__(groups, blocks.device, reuse=reuse)
        self._blocks = blocks
        self._search = Search(groups, blocks.device)
        self._held = torch.zeros_like(self.tail.slack)  # `smallest` is in the same place always
        self._usual: tuple[list[int], Candidates] | None = None
        self._candidates: Candidates | None = None

    def begin(self, density: float) -> Candidates | None:
        """Return the list for this step's candidates, if the last step suggests thresholds."""
        smallest = self.last_smallest(density)
        self._candidates = None
        if smallest is not None:
            self._candidates = self._usual_now()
            self._candidates.restart()
        return self._candidates

    def pick(self, residual: Tensor, density: float) -> Tensor:
        """Return the indices of the largest elements, strictly ascending."""
        self.step += 1
        listed, self._candidates = self._candidates, None
        if not len(residual):
            return torch.empty(0, dtype=torch.int64, device=residual.device)
        if listed is None:
            missed = torch.ones(self.groups.num_groups, dtype=torch.bool, device=residual.device)
            nothing = torch.empty(0, dtype=torch.int64, device=residual.device)
            self.smallest = self._held.zero_()
            return self._completed(residual, nothing, missed)
        found = listed.choose()
        if found.missed is None:
            return found.indices
        numbers, before = listed.lists.found.clone(), listed.smallest.clone()
        indices = self._completed(residual, found.indices, found.missed)
        self._learn_from(before, numbers, found.missed)
        return indices

    def _usual_now(self) -> Candidates:
        """Return the candidates of all groups; the same object for the same counts."""
        if self._usual is None or self._usual[0] != self.counts:
            self._usual = None  # gives its memory back first
            lists = Lists(self.groups, self.counts, self._blocks)
            self._usual = list(self.counts), Candidates(lists, self._held, self.tail)
        return self._usual[1]

    def _completed(self, residual: Tensor, indices: Tensor, missed: Tensor) -> Tensor:
        """Return the indices to send: *indices*, with those of *missed* groups searched again."""
        listed = self._listed_anew(residual, missed)
        found = listed.choose()
        self._held.copy_(torch.where(missed, listed.smallest, self._held))
        indices = self._replaced(indices, missed, found.indices)
        return indices if found.missed is None else self._exact(residual, indices, found.missed)

    def _learn_from(self, before: Tensor, found: Tensor, missed: Tensor) -> None:
        """Update the tails of *missed* groups, as the kernel did for the others."""
        tail, lists = self.tail, self._usual_now().lists
        anew = Tail(tail.slack.clone(), tail.aim.clone(), tail.width.clone())
        anew.learn(before, self._held, found, lists.wanted, lists.plan.goal)
        tail.slack.copy_(torch.where(missed, anew.slack, tail.slack))
        tail.aim.copy_(torch.where(missed, anew.aim, tail.aim))
        tail.width.copy_(torch.where(missed, anew.width, tail.width))

    def _listed_anew(self, residual: Tensor, missed: Tensor) -> Candidates:
        """List candidates of the *missed* groups alone."""
        lists, tail = self._usual_now().lists, Tail.of(self.groups.num_groups, residual.device)
        tail.slack.fill_(1.0)
        smallest = self._search.thresholds(residual, lists, missed)
        wanted = torch.where(missed, lists.wanted, 0)
        listed = Candidates(lists, smallest, tail, wanted=wanted)
        listed.watch(0, residual)
        return listed

    def _exact(self, residual: Tensor, indices: Tensor, missed: Tensor) -> Tensor:
        """Complete *indices* by torch.topk, for groups with too many equal elements."""
        picked = []
        for group in missed.nonzero().flatten().tolist():
            start, stop = self.groups.offsets[group : group + 2]
            magnitudes = residual[start:stop].abs()
            best = largest(magnitudes, self.counts[group])
            enough = len(best) == self.counts[group]
            self._held[group] = magnitudes[best].min() if enough else 0.0
            picked.append(best + start)
        return self._replaced(indices, missed, torch.cat(picked))

    def _replaced(self, indices: Tensor, missed: Tensor, others: Tensor) -> Tensor:
        """Return *indices*, ascending, with *others* in place of those of *missed* groups."""
        if not len(indices):
            return others
        ends = constant(self.groups.offsets[1:], indices.device)
        kept = indices[~missed[torch.searchsorted(ends, indices, right=True)]]
        return torch.cat([kept, others]).sort().values
