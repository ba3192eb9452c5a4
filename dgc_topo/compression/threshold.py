"""Selection by thresholds (`Threshold`): the elements of exact top-k at a fraction of its cost.

Each group has a threshold, taken from a sample or from the last step.  Few elements exceed it; they
become candidates while the residual is in the cache anyway, and the largest of them are the largest
of all (see `dgc_topo.compression.pool`).  If too few exceed it, that group alone is searched again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dgc_topo.compression.layout import Groups
from dgc_topo.compression.pool import Chosen, Pool, Watcher, constant
from dgc_topo.payload.largest import trim

FIRST_SLACK = 1.5  #: residuals grow by about 2 from the first step to the second
FIRST_AIM = 2.0
FIRST_WIDTH = 1 / 12
LEAST_WIDTH, MOST_WIDTH = 5e-4, 1 / 6
FOLDS = 0.2  #: a slope is measured only between points at least this many powers of e apart
SHRINKS, GROWS = 0.8, 1.6  #: largest factors by which residuals are expected to change
MISSED, FOUND = 1.5, 0.99  #: factors on *aim*, chosen by the number of candidates found


class Goal(NamedTuple):
    """Number of candidates that a search aims at: ``aim * k + spare + root * sqrt(k)`` for k sent.

    Attributes:
        least: Smallest *aim*, as a multiple of k.
        most: Largest *aim*, as a multiple of k.
        spare: Further candidates, for groups that send next to nothing.
        root: Factor on ``sqrt(k)``, for random deviations.
    """

    least: float
    most: float
    spare: float
    root: float


@dataclass(slots=True)
class Tail:
    """Estimated tails of the groups' magnitudes; each float32, shape (num_groups,).

    Attributes:
        slack: Threshold over the smallest magnitude sent; may exceed 1.
        aim: Candidates aimed at, as a multiple of the elements sent.
        width: Relative growth of the threshold that divides the number of candidates by e.
    """

    slack: Tensor
    aim: Tensor
    width: Tensor

    @classmethod
    def of(cls, num_groups: int, device: torch.device) -> Tail:
        """Return the tails that are assumed before the first search."""
        values = (FIRST_SLACK, FIRST_AIM, FIRST_WIDTH)
        return cls(
            *(
                torch.full((num_groups,), value, dtype=torch.float32, device=device)
                for value in values
            )
        )

    def learn(
        self, before: Tensor, smallest: Tensor, found: Tensor, counts: Tensor, goal: Goal
    ) -> None:
        """Learn from one search, in place, and find the slack of the next threshold.

        Args:
            before: Smallest magnitude that was sent the last time, by group; 0 if too few were.
            smallest: Smallest magnitude that is sent this time; 0 if too few are.
            found: Number of magnitudes above ``before * slack``.
            counts: Number of elements sent.
            goal: Number of candidates that was aimed at.
        """
        # Quotients and roots of integers would have torch's default type.
        found, counts = found.to(torch.float32), counts.to(torch.float32)
        threshold = before * self.slack
        known = (smallest > 0) & (threshold > 0)
        folds = (found / counts).log()
        measured = ((smallest / threshold).log() / folds).clamp(LEAST_WIDTH, MOST_WIDTH)
        steep = known & (found > 0) & (folds.abs() > FOLDS)
        self.width.copy_(torch.where(steep, (self.width + measured) / 2, self.width))
        change = torch.full_like(self.aim, FOUND).masked_fill_(found < counts, MISSED)
        self.aim.mul_(change).clamp_(goal.least, goal.most)
        wanted = (self.aim + (goal.spare + goal.root * counts.sqrt()) / counts).log()
        growth = (2 - before / smallest).clamp(SHRINKS, GROWS)  # as much as the last time
        slack = torch.where(known, growth, 1.0) * (-self.width * wanted).exp()
        self.slack.copy_(torch.where((smallest > 0) & (counts > 0), slack, self.slack))


_SAMPLE = 0.005  #: fraction of a group that is sampled (the paper: 0.1 to 1 %)
_SAMPLED_AT_ONCE = 1 << 18  #: elements; to sort them takes about 60 bytes each
_SMALL = 512  #: a sample has at least so many elements, or is the whole group

_GOAL = Goal(least=1.3, most=8.0, spare=8.0, root=3.0)

_Guess = Callable[[Tensor, Sequence[int]], Tensor]


class _Search(NamedTuple):
    """Outcome of a search, and the thresholds that it ended with."""

    chosen: Chosen
    thresholds: Tensor


class Threshold:
    """The largest magnitudes of each group, found by thresholds.

    It sends the elements of `top_k`, bit for bit, so its state need not be in a checkpoint.

    Args:
        groups: Who competes with whom.
        device: Where the residual is.
        reuse: Take thresholds from the last step if it sent as many elements; if False, take
            them from a sample in each step.
    """

    def __init__(self, groups: Groups, device: torch.device, *, reuse: bool = True) -> None:
        self.groups = groups
        self._reuse = reuse
        self.counts: list[int] = []  #: elements that each group sends
        self.smallest: Tensor | None = None  #: magnitude sent in the last step, by group
        self.tail = Tail.of(groups.num_groups, device)
        self._density = 0.0
        self._pool: Pool | None = None
        self.step = 0  #: searches so far

    def last_smallest(self, density: float) -> Tensor | None:
        """Return the last step's smallest magnitude by group, None if it is of no use now."""
        if density != self._density:
            self._density, counts = density, self.groups.counts(density)
            if counts != self.counts:
                self.counts, self.smallest = counts, None
        return self.smallest if self._reuse else None

    def begin(self, density: float) -> Watcher | None:
        """Return a pool with the last step's thresholds, None if they are of no use."""
        smallest = self.last_smallest(density)
        self._pool = None
        if smallest is not None:
            self._pool = Pool(self.groups, self.counts, smallest * self.tail.slack)
        return self._pool

    def pick(self, residual: Tensor, density: float) -> Tensor:
        """Return the indices of the largest elements, strictly ascending."""
        self.step += 1
        if self._pool is None:
            everything = range(self.groups.num_groups)
            search = self._searched(residual, everything, self._sampled(residual, everything))
            search = self._retried(residual, search, self._zeros)
        else:
            first = _Search(self._pool.choose(), self._pool.thresholds)
            search = self._searched_again(residual, first)
            self._learn(first.chosen.found, search.chosen.smallest)
        self._pool = None
        self.smallest = search.chosen.smallest
        return search.chosen.indices

    def _searched_again(self, residual: Tensor, search: _Search) -> _Search:
        """Complete a search in the groups that had too few candidates and may have more."""
        again = self._retried(residual, search, self._sampled)
        return search if again is search else self._retried(residual, again, self._zeros)

    def _learn(self, found: Tensor, smallest: Tensor) -> None:
        assert self.smallest is not None  # else there was no pool
        counts = constant(tuple(self.counts), found.device)
        self.tail.learn(self.smallest, smallest, found, counts, _GOAL)

    def _retried(self, residual: Tensor, search: _Search, guess: _Guess) -> _Search:
        """Search the groups again that had too few candidates and may have more."""
        chosen, thresholds = search
        counts = constant(tuple(self.counts), residual.device)
        short = ((chosen.found < counts) & (thresholds > 0)).nonzero().flatten().tolist()
        if not short:
            return search
        ends = constant(self.groups.offsets[1:], residual.device)
        again, lower = self._searched(residual, short, guess(residual, short))
        anew = torch.zeros(self.groups.num_groups, dtype=torch.bool, device=residual.device)
        anew[short] = True
        others = ~anew[torch.searchsorted(ends, chosen.indices, right=True)]
        merged = Chosen(
            torch.cat([chosen.indices[others], again.indices]).sort().values,
            torch.where(anew, again.found, chosen.found),
            torch.where(anew, again.smallest, chosen.smallest),
        )
        return _Search(merged, torch.where(anew, lower, thresholds))

    def _searched(self, residual: Tensor, groups: Sequence[int], thresholds: Tensor) -> _Search:
        """Search the finished residual of *groups*."""
        pool = Pool(self.groups, self.counts, thresholds)
        offsets = self.groups.offsets
        whole = len(groups) == self.groups.num_groups
        ranges = [(0, len(residual))] if whole else [(offsets[g], offsets[g + 1]) for g in groups]
        for start, stop in ranges:
            pool.watch_all(residual[start:stop], start)
        return _Search(pool.choose(), pool.thresholds)

    def _zeros(self, residual: Tensor, groups: Sequence[int]) -> Tensor:
        """Return thresholds that let everything through but zeros."""
        return torch.zeros_like(self.tail.slack)

    def _sampled(self, residual: Tensor, groups: Sequence[int]) -> Tensor:
        """Return thresholds that probably enough elements exceed; 0 for groups not in *groups*."""
        thresholds = torch.zeros_like(self.tail.slack)
        for some in self._batches(groups):
            samples, ranks = [], []
            for group in some:
                start, stop = self.groups.offsets[group : group + 2]
                stride = sample_stride(stop - start)
                samples.append(residual[start + self.step % stride : stop : stride])
                ranks.append(sample_rank(self.counts[group], stride))
            sizes, wanted, places = (
                torch.tensor(numbers, dtype=torch.int64, device=residual.device)
                for numbers in ([len(sample) for sample in samples], ranks, some)
            )
            smallest = trim(torch.cat(samples).abs_(), sizes.cumsum(0), wanted).smallest
            thresholds[places] = smallest
        # Just below it, so that it passes as well.
        return torch.nextafter(thresholds, torch.zeros_like(thresholds))

    def _batches(self, groups: Sequence[int]) -> Iterator[list[int]]:
        """Yield some of *groups* at a time, whose samples take little memory."""
        some: list[int] = []
        room = _SAMPLED_AT_ONCE
        for group in groups:
            start, stop = self.groups.offsets[group : group + 2]
            size = (stop - start) // sample_stride(stop - start)
            if some and size > room:
                yield some
                some, room = [], _SAMPLED_AT_ONCE
            some.append(group)
            room -= size
        if some:
            yield some


def sample_stride(num_elements: int) -> int:
    """Return the distance between the elements sampled of a group; 1 samples all.

    It is odd, because layers have powers of two as sizes: an even stride would skip channels.
    """
    size = max(_SMALL, int(_SAMPLE * num_elements))
    return 1 if num_elements <= size else num_elements // size | 1


def sample_rank(count: int, stride: int) -> int:
    """Return the rank, from the largest on, of the sample's magnitude that is the threshold.

    Of the *count* largest elements a sample holds ``e = count / stride`` on average, with a
    standard deviation of about ``sqrt(e)``; three of these, and one more, are added.
    """
    if stride == 1:
        return count
    expected = count / stride
    return math.ceil(expected + 3 * math.sqrt(expected)) + 1
