"""`Meetings`: proof that messages of different steps cannot meet on a link or a processor.

A rank goes on to a step when all its messages of the steps before have ended.  Two messages of
different steps with a rank in common therefore never move at the same time.  So if all flows over a
resource, in the whole run, have one rank in common, then only flows of one step can share it.

A resource also does no harm if it can never be the bottleneck: if it carries all that the links
before it (or all that the links after it) could together deliver.
"""

from __future__ import annotations

import numpy as np

from dgc_topo.arrays import BoolArray, IntArray
from dgc_topo.simulation.pattern import Pattern
from dgc_topo.simulation.resources import Resources

_NOBODY, _UNKNOWN = -1, -2
_ROUNDING = 1e-12


class BulkError(ValueError):
    """The bulk engine is not proved to be exact here, or is not the faster one."""


class Meetings:
    """Watch over the flows of a run, step by step.

    Args:
        resources: Links and processors.
        placement: Slot of each rank, shape (world_size,).

    Attributes:
        may_refuse: False if no two ranks' messages can use one resource, whatever the schedule.
    """

    def __init__(self, resources: Resources, placement: IntArray) -> None:
        self._resources = resources
        self._needs_look = np.isfinite(resources.capacity) & ~resources.are_own(placement)
        self.may_refuse = bool(self._needs_look.any())
        num_resources = len(resources.capacity) if self.may_refuse else 0
        # Of each resource: both ranks that may be common to all its flows, the ends of its first
        # flow, and those of a flow with which the last common rank was lost.
        self._common, self._first, self._clash = np.full((3, 2, num_resources), _UNKNOWN)
        self._before, self._after = _Neighbours(resources), _Neighbours(resources)

    def check(self, pattern: Pattern) -> BoolArray | None:
        """Take in the flows of a step.

        Returns:
            Mask of the resources that are shared by flows without a common rank, but never are the
            bottleneck; None if there are none.

        Raises:
            BulkError: naming two messages that can meet, and where.
        """
        if not self.may_refuse or not len(pattern.hops):
            return None
        for hop in pattern.hops:
            which = self._needs_look[hop]
            if which.any():
                self._note(hop[which], pattern.flow_src[which], pattern.flow_dst[which])
        self._note_neighbours(pattern.hops)
        contended: BoolArray = (self._common == _NOBODY).all(axis=0)
        if not contended.any():
            return None
        harmless = self._before.never_fill(contended) | self._after.never_fill(contended)
        harmful = contended & ~harmless
        if harmful.any():
            self._refuse(int(np.argmax(harmful)))
        return contended

    def _note(self, hop: IntArray, src: IntArray, dst: IntArray) -> None:
        """Rule out the ranks that are not an end of these flows (resource, source, destination)."""
        fresh = self._common[0, hop] == _UNKNOWN
        for kept, first, end in zip(self._common, self._first, (src, dst), strict=True):
            kept[hop[fresh]] = first[hop[fresh]] = end[fresh]
        for candidate in self._common:
            wrong = (candidate[hop] != src) & (candidate[hop] != dst)
            lost = wrong & (candidate[hop] != _NOBODY)
            self._clash[:, hop[lost]] = src[lost], dst[lost]
            candidate[hop[wrong]] = _NOBODY

    def _note_neighbours(self, hops: IntArray) -> None:
        """Note by which links flows come to the links that may be shared, and leave them."""
        last = np.maximum((hops != self._resources.pad).sum(axis=0) - 1, 0)
        self._before.note(hops, hops[0], self._needs_look)
        self._after.note(hops, hops[last, np.arange(hops.shape[1])], self._needs_look)

    def _refuse(self, resource: int) -> None:
        (a, b), (c, d) = self._first[:, resource].tolist(), self._clash[:, resource].tolist()
        raise BulkError(
            f"engine bulk: messages rank {a} -> rank {b} and rank {c} -> rank {d} can meet on "
            f"{self._resources.name(resource)}; expected engine events, or auto"
        )


class _Neighbours:
    """Links at one end of the routes over each link, and whether they can fill it together."""

    def __init__(self, resources: Resources) -> None:
        self._capacity, self._is_weighted = resources.capacity, resources.is_weighted
        self._pairs = np.empty(0, np.int64)

    def note(self, hops: IntArray, end: IntArray, which: BoolArray) -> None:
        """Take in flows.

        Args:
            hops: Links that each flow crosses, shape (max_hops, num_flows).
            end: Link of each flow at this end of its route, shape (num_flows,).
            which: Mask of the links that matter.
        """
        size = len(self._capacity)
        pairs = [hop[which[hop]] * size + end[which[hop]] for hop in hops]
        self._pairs = np.unique(np.concatenate([self._pairs, *pairs]))

    def never_fill(self, contended: BoolArray) -> BoolArray:
        """Return a mask of the links that carry all that comes from links of one rank each."""
        size = len(self._capacity)
        link, end = self._pairs // size, self._pairs % size
        holds = (link != end) & ~contended[end]
        if self._is_weighted:  # a byte may use more of this resource than of that one
            holds[:] = False
        total = np.bincount(link, np.where(holds, self._capacity[end], np.inf), size)
        return np.asarray(total <= self._capacity * (1 + _ROUNDING), np.bool_)
