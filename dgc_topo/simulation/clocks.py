"""Times of ranks that only wait for each other: a max-plus recursion, one array operation a step.

A message begins when both of its ends are ready, and a rank is ready again when all its messages of
the step have ended (Baccelli, Cohen, Olsder & Quadrat, *Synchronization and Linearity*, 1992).
"""

from __future__ import annotations

import numpy as np

from dgc_topo.arrays import FloatArray, IntArray
from dgc_topo.network.costs import EndCosts
from dgc_topo.simulation.pattern import Pattern, as_one

#: Seconds before each flow's source, and its destination, has posted it.
Leads = tuple[FloatArray, FloatArray]


class Clocks:
    """Time at which each rank is ready for its next step.

    While all ranks are ready at one time, that is one number, however many ranks there are.

    Args:
        world_size: Number of ranks.
    """

    def __init__(self, world_size: int) -> None:
        self._size = world_size
        self._common_s: float | None = 0.0
        self._each_s = np.zeros(0)

    @property
    def times_s(self) -> FloatArray:
        """Times of all ranks, shape (world_size,); not to be changed."""
        if self._common_s is not None:
            return np.full(self._size, self._common_s)
        return self._each_s

    def _own(self) -> FloatArray:
        """Return the times as an array that may be changed."""
        if self._common_s is not None:
            self._each_s, self._common_s = np.full(self._size, self._common_s), None
        return self._each_s

    def begin_s(self, pattern: Pattern, leads: Leads | None = None) -> FloatArray:
        """Return the time at which both ends have posted each flow, shape (num_flows,)."""
        src_s = self.times_s[pattern.flow_src]
        dst_s = self.times_s[pattern.flow_dst]
        if leads is not None:
            src_s, dst_s = src_s + leads[0], dst_s + leads[1]
        return np.maximum(src_s, dst_s)

    def advance(
        self, pattern: Pattern, duration_s: FloatArray | float, leads: Leads | None = None
    ) -> None:
        """Run a step whose flows take a known time from their begin.

        Args:
            pattern: Flows of the step.
            duration_s: Seconds of each flow, shape (num_flows,), or of all.
            leads: Seconds before each end has posted the flow; none by default.
        """
        everybody = len(pattern.members) == self._size
        if self._common_s is not None and everybody and isinstance(duration_s, float):
            lead_s = 0.0 if leads is None else _common(np.maximum(*leads))
            if lead_s is not None:
                self._common_s += lead_s + duration_s
                return
        inverse = pattern.inverse if everybody and leads is None else None
        if inverse is None:
            self.finish(pattern, self.begin_s(pattern, leads) + duration_s)
            return
        each_s = self._own()
        end_s = np.maximum(each_s, each_s[pattern.flow_dst])
        end_s += duration_s
        np.maximum(end_s, end_s[inverse], out=each_s)

    def advance_often(
        self,
        pattern: Pattern,
        delay_s: FloatArray,
        num_bytes: FloatArray,
        s_per_byte: FloatArray | float,
    ) -> None:
        """Run several steps of one pattern, in each of which all flows have the same bytes.

        Args:
            pattern: Flows of every step.
            delay_s: Seconds of each flow before it moves bytes, shape (num_flows,).
            num_bytes: Bytes of a flow in each step, shape (num_steps,).
            s_per_byte: Seconds per byte of each flow, shape (num_flows,).
        """
        delay = as_one(delay_s)
        per_byte = s_per_byte if isinstance(s_per_byte, float) else as_one(s_per_byte)
        if (
            self._common_s is not None
            and len(pattern.members) == self._size
            and isinstance(delay, float)
            and isinstance(per_byte, float)
        ):
            self._common_s += len(num_bytes) * delay + float(num_bytes.sum()) * per_byte
            return
        for size in num_bytes.tolist():
            self.advance(pattern, delay + size * per_byte)

    @property
    def are_common(self) -> bool:
        """True if all ranks are ready at one time."""
        return self._common_s is not None

    def finish(self, pattern: Pattern, end_s: FloatArray) -> None:
        """Make ranks ready when the last of their flows has ended.

        Args:
            pattern: Flows of the step.
            end_s: Time at which each ends, shape (num_flows,).
        """
        each_s = self._own()
        if pattern.is_single:
            each_s[pattern.flow_src] = end_s
            each_s[pattern.flow_dst] = np.maximum(each_s[pattern.flow_dst], end_s)
        else:
            last_s = np.maximum.reduceat(end_s[pattern.ends], pattern.first_end)
            each_s[pattern.members] = last_s

    def add(self, members: IntArray, seconds: FloatArray) -> None:
        """Keep some ranks (distinct) busy for some time."""
        common_s = _common(seconds) if self._common_s is not None else None
        if self._common_s is not None and common_s is not None and len(members) == self._size:
            self._common_s += common_s
        else:
            self._own()[members] += seconds

    def wait_until(self, times_s: FloatArray) -> None:
        """Make no rank ready before a given time, shape (world_size,)."""
        common_s = _common(times_s)
        if self._common_s is not None and common_s is not None:
            self._common_s = max(self._common_s, common_s)
        else:
            each_s = self._own()
            np.maximum(each_s, times_s, out=each_s)


def _common(values: FloatArray) -> float | None:
    """Return the value of all entries, or None if they differ."""
    first = float(values[0]) if len(values) else 0.0
    return first if (values == first).all() else None


def posting_leads(pattern: Pattern, costs: EndCosts, start_s: FloatArray | None = None) -> Leads:
    """Return the seconds after which ranks have posted the ends of their flows, one by one.

    Args:
        pattern: Flows of the step.
        costs: Overheads of steps and messages.
        start_s: Seconds that each member takes to begin the run, shape (num_members,).
    """
    step_s, message_s = costs.step_overhead_s, costs.overhead_s
    src_s, dst_s = (np.asarray(step_s + (1 + turn) * message_s) for turn in pattern.turns)
    if start_s is not None:
        src_s, dst_s = src_s + start_s[pattern.src_at], dst_s + start_s[pattern.dst_at]
    return src_s, dst_s
