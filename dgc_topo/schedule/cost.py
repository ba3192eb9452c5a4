"""Cost of a schedule in steps, messages and bytes, independent of the network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dgc_topo.arrays import IntArray
from dgc_topo.schedule import Schedule


@dataclass(frozen=True, slots=True, eq=False)
class Cost:
    """Counts over one run of a schedule.

    Attributes:
        num_steps: Steps that hold at least one transfer.
        num_messages: Transfers of all ranks.
        most_per_step: Messages that the busiest rank sends in its busiest step.
        messages_sent: Per rank, shape (world_size,).
        chunks_sent: Per rank; divide by *num_chunks* for whole buffers.
        chunks_received: Per rank.
        num_chunks: Chunks in the buffer.
    """

    num_steps: int
    num_messages: int
    most_per_step: int
    messages_sent: IntArray
    chunks_sent: IntArray
    chunks_received: IntArray
    num_chunks: int

    @property
    def buffers_sent(self) -> float:
        """Buffers that the busiest rank sends (a buffer is all chunks once)."""
        return float(self.chunks_sent.max()) / self.num_chunks

    @property
    def buffers_received(self) -> float:
        """Buffers that the busiest rank receives."""
        return float(self.chunks_received.max()) / self.num_chunks


def count_cost(schedule: Schedule) -> Cost:
    """Return the cost of one run of *schedule*."""
    n = schedule.world_size
    num_steps = num_messages = most_per_step = 0
    messages, sent, received = (np.zeros(n, np.int64) for _ in range(3))
    for step in schedule.steps():
        num_steps += bool(len(step))
        num_messages += len(step)
        now = np.bincount(step.src, minlength=n)
        most_per_step = max(most_per_step, int(now.max()))
        messages += now
        sent += np.bincount(step.src, weights=step.count, minlength=n).astype(np.int64)
        received += np.bincount(step.dst, weights=step.count, minlength=n).astype(np.int64)
    return Cost(
        num_steps, num_messages, most_per_step, messages, sent, received, schedule.num_chunks
    )


def step_lower_bound(cost: Cost) -> int:
    """Return the fewest steps that an all-reduce needs with as many messages per rank and step.

    ceil(log_{k+1} n) if a rank may send to k others in one step (Bar-Noy & Kipnis, 1994).
    """
    steps, known = 0, 1
    while known < len(cost.messages_sent):
        known *= cost.most_per_step + 1
        steps += 1
    return steps
