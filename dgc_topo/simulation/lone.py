"""Lone flows: those that find all links on their way free, and are met by nobody.

From its start on, the end of such a flow is known: its latency and more, then its bytes at the rate
of the narrowest link.  It needs a single instant, its end.  Only if another flow becomes active on
one of its links before that, it goes on as a flow that shares.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from dgc_topo.arrays import IntArray
from dgc_topo.simulation.ways import Way


class LoneFlow:
    """Flow that shares no link so far.

    Attributes:
        hops: Resources used, padded.
        way: The same resources, each once, and the flow's rate.
        begin_s: Time at which it becomes active.
        end_s: Time at which it ends, unless it is met.
        is_met: True if it shares from now on.
        num_bytes: Size.
        tag: The owner's number for it.
        owner: Number of the owner.
    """

    __slots__ = ("begin_s", "end_s", "hops", "is_met", "num_bytes", "owner", "tag", "way")

    def __init__(
        self,
        hops: tuple[int, ...],
        way: Way,
        begin_s: float,
        num_bytes: float,
        tag: int,
        owner: int,
    ) -> None:
        self.hops, self.way, self.begin_s, self.num_bytes = hops, way, begin_s, num_bytes
        self.tag, self.owner, self.is_met = tag, owner, False
        self.end_s = begin_s + num_bytes / way.alone_rate if way.links else begin_s


class LoneFlows:
    """Lone flows under way, by link."""

    def __init__(self) -> None:
        self.on: dict[int, LoneFlow] = {}

    def add(self, flow: LoneFlow) -> None:
        """Let a flow have its links for itself."""
        on = self.on
        for link in flow.way.links:
            on[link] = flow

    def end(self, flow: LoneFlow) -> None:
        """Free the links of a flow."""
        on = self.on
        for link in flow.way.links:
            del on[link]

    def among(self, hops: IntArray) -> set[int]:
        """Return those of some links, any shape, that a flow has for itself."""
        return self.on.keys() & set(np.unique(hops).tolist())

    def meet(self, links: Iterable[int]) -> list[LoneFlow]:
        """Return the flows that have any of some links; they are lone no more."""
        met = []
        for link in links:
            flow = self.on.get(link)
            if flow is not None:
                self.end(flow)
                flow.is_met = True
                met.append(flow)
        return met
