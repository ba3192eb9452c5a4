"""Attendance: the ranks that take part in each exchange, and how much each of them counts.

They are drawn at random, or known before (`absences_in`).  A rank that is left out of an exchange
neither sends nor waits: it goes on with its own steps, and its round gets longer.  The others run a
schedule of their own, so that their weights sum to 1 again, exactly: over an all-reduce the
topology's for so many ranks; in gossip what is left of it (see `dgc_topo.without`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

import numpy as np

from dgc_topo.arrays import IntArray
from dgc_topo.averaging.absences import Absence, check_absences, turning_points
from dgc_topo.schedule import Goal, Schedule, ScheduleError, copy, place, weighted, without
from dgc_topo.topology import Topology

_PURPOSE = 11  #: of the random numbers, beside those of data and topologies


@dataclass(frozen=True, slots=True)
class Attendance:
    """The ranks that take part in each exchange of a training, and their weights.

    Attributes:
        world_size: Number of ranks.
        share: Share of them that takes part in an exchange.
        goal: That of the topology.  Of an all-reduce more than half of them take part, so that
            someone of each exchange was in the one before, too.
        seed: Seed of the draws; the same on every rank.
        weights: Whole numbers by which the ranks count; all alike by default.
        weighs_gossip: True if they are in the schedule; False if the ranks weigh what they add.
        absences: Ranks that are left out of exchanges though they are not drawn.

    Raises:
        ValueError: if these name a rank that is not there, or every rank at some time.
    """

    world_size: int
    share: float = 1.0
    goal: Goal = "doubly-stochastic"
    seed: int = 0
    weights: tuple[int, ...] = ()
    weighs_gossip: bool = True
    absences: tuple[Absence, ...] = ()

    def __post_init__(self) -> None:
        check_absences(self.absences, self.world_size)

    @property
    def is_full(self) -> bool:
        """True if all ranks take part in every exchange."""
        return self.count == self.world_size and not self.absences

    @property
    def count(self) -> int:
        """Number of ranks that are drawn for each exchange."""
        least = self.world_size // 2 + 1 if self.goal == "all-reduce" else 1
        return min(max(round(self.share * self.world_size), least), self.world_size)

    def of(self, exchange: int) -> IntArray:
        """Return the ranks that take part in an exchange, rising."""
        drawn = _drawn(self.world_size, self.count, self.seed, exchange)
        out = [each.rank for each in self.absences if each.covers(exchange)]
        return np.setdiff1d(drawn, out) if out else drawn

    def behind(self, exchange: int) -> IntArray:
        """Return those of them that were left out of the exchange before."""
        if exchange == 0:
            return np.zeros(0, np.int64)
        return np.setdiff1d(self.of(exchange), self.of(exchange - 1))

    def givers(self, exchange: int) -> IntArray:
        """Return, for each of those, one that took part in the exchange before.

        As many different ones as there are, so that their links are used side by side.
        """
        behind = self.behind(exchange)
        if not len(behind):
            return behind
        both = np.intersect1d(self.of(exchange), self.of(exchange - 1))
        assert len(both), "more than half take part, or one in every exchange"
        return both[np.arange(len(behind)) % len(both)]

    def shares(self, exchange: int) -> list[Fraction]:
        """Return what each of those in an exchange counts in the mean; they sum to 1."""
        weights = [self._weight(rank) for rank in self.of(exchange).tolist()]
        return [Fraction(weight, sum(weights)) for weight in weights]

    def renormalised(self, exchange: int) -> Fraction:
        """Return the factor of a sum whose terms hold their weights over those of all ranks."""
        there = sum(self._weight(rank) for rank in self.of(exchange).tolist())
        return Fraction(sum(map(self._weight, range(self.world_size))), there)

    def arranged(self, topology: Topology) -> Topology:
        """Return the topology among those that take part, in a world of all ranks.

        Gossip is weighted, see `weighted`; sums are of what ranks have weighted themselves.

        Raises:
            ValueError: if an all-reduce cannot run among so few ranks.
        """
        self._check_numbers(topology)
        mixes = self.goal == "doubly-stochastic" and self.weighs_gossip
        is_weighted = mixes and len(set(self.weights)) > 1
        if self.is_full and not is_weighted:
            return topology

        def of_iteration(world_size: int, iteration: int = 0, seed: int = 0) -> Schedule:
            self._check(world_size)
            here = self.of(iteration)
            whole = self.goal != "all-reduce"
            made = topology.schedule(
                world_size if whole else len(here), iteration=iteration, seed=seed
            )
            out = sorted(set(range(world_size)) - set(here.tolist()))
            if whole and out:
                made = without(made, out)
            if is_weighted:
                made = weighted(made, [self._weight(rank) for rank in here.tolist()])
            if not out:
                return made
            return replace(place(made, here, world_size), goal=made.goal, servers=tuple(out))

        def of_all(world_size: int, seed: int = 0) -> Schedule:
            return of_iteration(world_size, seed=seed)

        varies = topology.varies or not self.is_full
        return Topology(topology.label, of_iteration if varies else of_all)

    def catching_up(self) -> Topology:
        """Return the topology by which ranks that were left out get what the others hold alike."""

        def schedule(world_size: int, iteration: int = 0) -> Schedule:
            self._check(world_size)
            behind = self.behind(iteration)
            steps = [copy(self.givers(iteration), behind)] if len(behind) else []
            return Schedule.from_steps(world_size, 1, steps, goal="part")

        return Topology("catching up", schedule)

    def _check_numbers(self, topology: Topology) -> None:
        if self.is_full or self.goal != "all-reduce":
            return
        for number in sorted({len(self.of(each)) for each in turning_points(self.absences)}):
            try:
                topology.schedule(number)
            except ValueError as error:
                what = f"{number} of {self.world_size} ranks take part in some exchange"
                raise ValueError(f"{what}: {error}") from error

    def _weight(self, rank: int) -> int:
        return self.weights[rank] if self.weights else 1

    def _check(self, world_size: int) -> None:
        if world_size != self.world_size:
            raise ScheduleError(f"world_size {world_size}, expected {self.world_size}")


@lru_cache(maxsize=256)
def _drawn(world_size: int, count: int, seed: int, exchange: int) -> IntArray:
    if count == world_size:
        return np.arange(world_size)
    generator = np.random.default_rng([seed, exchange, _PURPOSE])
    return np.sort(generator.choice(world_size, count, replace=False)).astype(np.int64)
