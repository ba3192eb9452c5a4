"""Patterns of communication: the flows of a step, reused for all steps between the same ranks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from dgc_topo.arrays import FloatArray, IntArray, may_change
from dgc_topo.schedule import Step
from dgc_topo.simulation.resources import Resources

#: Most patterns to keep, and most transfers in them.
KEPT_PATTERNS = 4
KEPT_TRANSFERS = 1 << 18
#: Transfers that take as much memory as a pattern itself.
PATTERN_WEIGHT = 64


@dataclass(frozen=True, eq=False)
class Pattern:
    """The flows of a step: one per ordered pair of ranks, and the ranks that take part.

    Attributes:
        src: Source rank of each transfer of the step.
        dst: Destination rank.
        flow_of: Flow that carries each transfer, or None if each has its own.
        members: Ranks that take part, sorted, shape (num_members,).
        degree: Number of flows of each member.
        src_at: Position in *members* of each flow's source, shape (num_flows,).
        dst_at: Position in *members* of each flow's destination.
        hops: Resources that each flow uses, shape (max_hops, num_flows).
        latency_s: Latency of each flow's route.
    """

    src: IntArray
    dst: IntArray
    flow_of: IntArray | None
    members: IntArray
    degree: IntArray
    src_at: IntArray
    dst_at: IntArray
    hops: IntArray
    latency_s: FloatArray

    @classmethod
    def of_selves(cls, members: IntArray, hops: IntArray) -> Pattern:
        """Return the pattern of flows from each member to itself, for work or waiting.

        Args:
            members: Ranks, sorted, shape (num_members,).
            hops: Resources that each flow uses, shape (max_hops, num_members).
        """
        at, none_s = np.arange(len(members)), np.zeros(len(members))
        both_ends = np.full(len(members), 2)
        return cls(members, members, None, members, both_ends, at, at, hops, none_s)

    @property
    def num_flows(self) -> int:
        """Number of flows."""
        return len(self.src_at)

    def sum_flows(self, num_bytes: FloatArray) -> FloatArray:
        """Return the bytes of each flow, shape (num_flows,).

        Args:
            num_bytes: Bytes of each transfer, shape (num_transfers,).
        """
        if self.flow_of is None:
            return num_bytes
        return np.asarray(np.bincount(self.flow_of, num_bytes, self.num_flows), np.float64)

    @cached_property
    def uses(self) -> IntArray:
        """Number of hops over each resource, up to the last one that occurs."""
        return np.bincount(self.hops.ravel())

    @cached_property
    def most_uses(self) -> int:
        """Largest number of hops over one resource."""
        hops = self.hops
        if 8 * hops.size < hops.max(initial=0):  # the cost of few flows must depend on the few
            return int(np.unique(hops, return_counts=True)[1].max(initial=0))
        return int(self.uses.max(initial=0))

    @cached_property
    def flow_src(self) -> IntArray:
        """Source rank of each flow, shape (num_flows,)."""
        return self.src if self.flow_of is None else self.members[self.src_at]

    @cached_property
    def flow_dst(self) -> IntArray:
        """Destination rank of each flow, shape (num_flows,)."""
        return self.dst if self.flow_of is None else self.members[self.dst_at]

    @cached_property
    def is_single(self) -> bool:
        """True if no rank sends, or receives, more than one flow."""
        if self.inverse is not None:
            return True
        return all(np.bincount(at).max() == 1 for at in (self.src_at, self.dst_at))

    @cached_property
    def inverse(self) -> IntArray | None:
        """Flow that each member receives, if the members send one each, in their order; or None."""
        count = self.num_flows
        if count != len(self.members) or not np.array_equal(self.src_at, _count_to(count)):
            return None
        inverse = np.full(self.num_flows, -1)
        inverse[self.dst_at] = self.src_at
        return inverse if inverse.min() >= 0 else None

    @cached_property
    def first_end(self) -> IntArray:
        """Position in *ends* of each member's first flow, shape (num_members,)."""
        return np.asarray(np.cumsum(self.degree) - self.degree, np.int64)

    @cached_property
    def routes(self) -> list[tuple[int, ...]]:
        """Resources of each flow, one by one."""
        return list(map(tuple, self.hops.T.tolist()))

    @cached_property
    def _order(self) -> IntArray:
        return np.argsort(np.concatenate([self.src_at, self.dst_at]), kind="stable")

    @cached_property
    def ends(self) -> IntArray:
        """Flows of each member, one member after the other, shape (2 * num_flows,)."""
        return self._order % self.num_flows

    @cached_property
    def turns(self) -> tuple[IntArray, IntArray]:
        """Position of each flow among the flows of its source, and of its destination, from 0."""
        turns = np.empty_like(self._order)
        turns[self._order] = np.arange(len(turns)) - np.repeat(self.first_end, self.degree)
        return turns[: self.num_flows], turns[self.num_flows :]


class Patterns:
    """Maker of patterns, with a cache of the last few.

    Args:
        resources: Links and processors, which knows the routes.
        world_size: Number of ranks.
        placement: Host of each rank, shape (world_size,).
    """

    def __init__(self, resources: Resources, world_size: int, placement: IntArray) -> None:
        self._resources = resources
        self._world_size = world_size
        self._placement = placement
        self._last: list[Pattern] = []
        self._of_fixed: dict[tuple[int, int], Pattern] = {}
        self._weight = 0  # of these
        self._kept_work: list[Pattern] = []

    def of(self, step: Step) -> Pattern:
        """Return the pattern of a step."""
        if not (may_change(step.src) or may_change(step.dst)):
            return self._of_arrays_that_stay(step)
        for pattern in self._last:
            if np.array_equal(pattern.src, step.src) and np.array_equal(pattern.dst, step.dst):
                return pattern
        # A schedule may write into its arrays for the next step.
        pattern = self._build(step.src.copy(), step.dst.copy())
        if len(step) * KEPT_PATTERNS <= KEPT_TRANSFERS:
            self._last = [pattern, *self._last[: KEPT_PATTERNS - 1]]
        return pattern

    def _of_arrays_that_stay(self, step: Step) -> Pattern:
        """Return the pattern of a step whose arrays nobody can change: they name it."""
        key = id(step.src), id(step.dst)
        pattern = self._of_fixed.get(key)
        if pattern is None:
            pattern = self._build(step.src, step.dst)
            self._weight += pattern.num_flows + PATTERN_WEIGHT
            if self._weight > KEPT_TRANSFERS:
                self._of_fixed.clear()
                self._weight = 0
            self._of_fixed[key] = pattern  # it holds the arrays, so that their ids stay theirs
        return pattern

    def of_work(self, members: IntArray) -> Pattern:
        """Return the pattern of ranks with work of their own."""
        for pattern in self._kept_work:
            if np.array_equal(pattern.members, members):
                return pattern
        hops = self._resources.of_work(self._placement[members])
        pattern = Pattern.of_selves(members, hops)
        self._kept_work = [pattern, *self._kept_work[: KEPT_PATTERNS - 1]]
        return pattern

    def _build(self, src: IntArray, dst: IntArray) -> Pattern:
        flow_src, flow_dst, flow_of = self._merge(src, dst)
        members, degree, src_at, dst_at = self._members(flow_src, flow_dst)
        hops, latency_s = self._resources.of_messages(
            self._placement[flow_src], self._placement[flow_dst]
        )
        return Pattern(src, dst, flow_of, members, degree, src_at, dst_at, hops, latency_s)

    def _merge(self, src: IntArray, dst: IntArray) -> tuple[IntArray, IntArray, IntArray | None]:
        """Give all transfers of an ordered pair one flow, because they share a connection."""
        pairs = src * self._world_size + dst
        if (pairs[1:] > pairs[:-1]).all():
            return src, dst, None
        flows, flow_of = np.unique(pairs, return_inverse=True)
        if len(flows) == len(pairs):
            return src, dst, None
        return flows // self._world_size, flows % self._world_size, flow_of

    def _members(
        self, src: IntArray, dst: IntArray
    ) -> tuple[IntArray, IntArray, IntArray, IntArray]:
        size = self._world_size
        if 8 * len(src) < size:  # if few of many ranks take part, the cost must depend on the few
            members, at, degree = np.unique(
                np.concatenate([src, dst]), return_inverse=True, return_counts=True
            )
            return members, degree, at[: len(src)], at[len(src) :]
        degree = np.bincount(src, minlength=size) + np.bincount(dst, minlength=size)
        if degree.all():
            return np.arange(size), degree, src, dst
        members = np.flatnonzero(degree)
        at = np.empty(size, np.int64)
        at[members] = np.arange(len(members))
        return members, degree[members], at[src], at[dst]


def is_one(values: FloatArray | IntArray | None) -> bool:
    """Return True if there are values, and all are the same."""
    if values is None or not len(values):
        return False
    return values.strides == (0,) or bool((values == values[0]).all())


def as_one(values: FloatArray) -> FloatArray | float:
    """Return the one number that `numpy.broadcast_to` has spread; other arrays as they are."""
    return float(values[0]) if values.strides == (0,) and len(values) else values


@lru_cache(maxsize=8)
def _count_to(number: int) -> IntArray:
    return np.arange(number)
