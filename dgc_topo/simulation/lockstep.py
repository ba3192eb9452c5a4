"""Schedules that keep all ranks in step: their time is a sum, exact and without events.

On a star of equal links, a step's flows start together if one end of each was busy until the end of
the previous step.  They end together if they carry the same bytes and are shared alike.  The time
of a step is then ``latency + bytes * flows / bandwidth``, with the number of flows that share the
busiest link.  These conditions depend on the schedule alone, so one pass over it serves every
network, model and density.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dgc_topo.arrays import FloatArray, IntArray
from dgc_topo.network.fabrics import Fabric
from dgc_topo.schedule import Schedule, Step
from dgc_topo.simulation.tally import SAME, Bounds
from dgc_topo.simulation.unions import MAX_COUNTERS, Contributors

#: Function from numbers of merged contributors, and of chunks, to bytes of messages.
MessageBytes = Callable[[IntArray, IntArray], FloatArray]


@dataclass(frozen=True, slots=True, eq=False)
class LockStep:
    """Schedule whose flows of every step all start together and end together.

    Attributes:
        contributors: Number of contributors that each chunk has merged when it is sent in a step,
            shape (num_steps,).  None if chunks of one step differ, or several messages are one
            flow; then only dense sizes are in lock step.
        chunks: Chunks that each flow carries in a step, shape (num_steps,).
        share: Flows on the busiest link of each flow, shape (num_steps,).
        pattern: Number of the step's pattern of ranks, shape (num_steps,).
        sent: Flows that leave each rank in a pattern, shape (num_patterns, world_size).
        received: Flows that reach each rank, same shape.
        messages_sent: Transfers of each rank in all steps, shape (world_size,).
        ends_together: True if every rank is busy in the last step, so that a second run of the
            schedule begins everywhere when the first one ends.
    """

    contributors: IntArray | None
    chunks: IntArray
    share: IntArray
    pattern: IntArray
    sent: IntArray
    received: IntArray
    messages_sent: IntArray
    ends_together: bool

    def flow_bytes(self, message_bytes: MessageBytes) -> FloatArray:
        """Return the bytes of each flow in every step, shape (num_steps,)."""
        merged = self.contributors
        if merged is None:
            merged = np.ones(len(self.chunks), np.int64)
        return np.asarray(message_bytes(merged, self.chunks), np.float64)

    def time_s(self, fabric: Fabric, flow_bytes: FloatArray) -> float:
        """Return the seconds that the schedule takes on a star."""
        busiest_s = float((flow_bytes * self.share).sum()) / fabric.bandwidth_bytes_per_s
        return len(self.chunks) * fabric.latency_s + busiest_s

    def link_bytes(self, flow_bytes: FloatArray) -> FloatArray:
        """Return the bytes on every link of a star: all ways up, then all ways down."""
        per_pattern = self._per_pattern(flow_bytes)
        return np.concatenate([per_pattern @ self.sent, per_pattern @ self.received])

    def _per_pattern(self, flow_bytes: FloatArray) -> FloatArray:
        return np.bincount(self.pattern, flow_bytes, len(self.sent)).astype(np.float64)


def star_bounds(fabric: Fabric, link_bytes: FloatArray, num_steps: int) -> Bounds:
    """Return the time that each resource alone needs, as a simulation reports it.

    Args:
        fabric: Fabric of the star.
        link_bytes: Bytes on every link in all runs, see `LockStep.link_bytes`.
        num_steps: Number of steps in all runs.
    """
    as_busy = link_bytes >= link_bytes.max() * (1 - SAME)
    busiest, like_it = int(np.argmax(as_busy)), int(as_busy.sum()) - 1
    world_size = len(link_bytes) // 2
    name = f"host {busiest % world_size} {'up' if busiest < world_size else 'down'}"
    return Bounds(
        float(link_bytes[busiest]) / fabric.bandwidth_bytes_per_s,
        f"{name} (and {like_it} more)" if like_it else name,
        0.0,
        "no CPU",
        num_steps * fabric.latency_s,
    )


def find_lock_step(schedule: Schedule) -> LockStep | None:
    """Return the lock step of *schedule* if it keeps its ranks in step, else None.

    It takes one pass over the schedule, and needs no sizes and no network.
    """
    look = _Look(schedule)
    for step in schedule.steps():
        if len(step) and not look.take(step):
            return None
    return look.result()


@dataclass(frozen=True, slots=True, eq=False)
class _Pattern:
    """Flows of a step, one per ordered pair of ranks."""

    step: Step
    src: IntArray
    dst: IntArray
    flow_of: IntArray
    share: int  #: number of flows on every flow's busiest link; 0 if flows differ

    def fits(self, step: Step) -> bool:
        return np.array_equal(self.step.src, step.src) and np.array_equal(self.step.dst, step.dst)


class _Look:
    """One pass over a schedule."""

    def __init__(self, schedule: Schedule) -> None:
        self._size = schedule.world_size
        self._done = np.zeros(self._size, np.int64)  # step after which each rank was last busy
        self._patterns: list[_Pattern] = []
        self._rows: list[tuple[int, int, int]] = []  # chunks, share and pattern of each step
        countable = schedule.world_size * schedule.num_chunks <= MAX_COUNTERS
        self._merged = Contributors(schedule) if countable else None
        self._contributors: list[int] = []
        self._messages = np.zeros(self._size, np.int64)

    def take(self, step: Step) -> bool:
        """Add a step; return True if ranks are still in step."""
        number, pattern = self._pattern(step)
        latest = np.maximum(self._done[pattern.src], self._done[pattern.dst])
        chunks = np.bincount(pattern.flow_of, step.count, len(pattern.src))
        alike = chunks.min() == chunks.max() and (latest == len(self._rows)).all()
        if not alike or not pattern.share:
            return False
        self._rows.append((int(chunks[0]), pattern.share, number))
        self._done[pattern.src] = self._done[pattern.dst] = len(self._rows)
        self._messages += np.bincount(step.src, minlength=self._size)
        if self._merged is not None:
            merged, _, _ = self._merged.advance(step)
            self._contributors.append(int(merged[0]))
            # Messages that share a flow have a header each; only a simulation adds these up.
            if (merged != merged[0]).any() or len(step) > len(pattern.src):
                self._merged = None
        return True

    def _pattern(self, step: Step) -> tuple[int, _Pattern]:
        for number in range(len(self._patterns) - 1, -1, -1)[:4]:
            if self._patterns[number].fits(step):
                return number, self._patterns[number]
        pairs, flow_of = np.unique(step.src * self._size + step.dst, return_inverse=True)
        src, dst = pairs // self._size, pairs % self._size
        share = np.maximum(self._degree(src)[src], self._degree(dst)[dst])
        common = int(share[0]) if share.min() == share.max() else 0
        self._patterns.append(_Pattern(step, src, dst, flow_of, common))
        return len(self._patterns) - 1, self._patterns[-1]

    def _degree(self, ranks: IntArray) -> IntArray:
        return np.bincount(ranks, minlength=self._size)

    def result(self) -> LockStep:
        """Return the lock step of all steps taken."""
        chunks, share, pattern = np.array(self._rows, np.int64).reshape(-1, 3).T
        none = [np.zeros(self._size, np.int64)]
        return LockStep(
            np.array(self._contributors, np.int64) if self._merged is not None else None,
            chunks,
            share,
            pattern,
            np.stack([self._degree(p.src) for p in self._patterns] or none),
            np.stack([self._degree(p.dst) for p in self._patterns] or none),
            self._messages,
            bool((self._done == len(self._rows)).all()),
        )
