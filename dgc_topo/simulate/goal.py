"""Write a schedule as GOAL text, for LogGOPSim, ATLAHS and whoever else reads it.

(Hoefler, Siebert & Lumsdaine, "Group Operation Assembly Language", ICPP 2009.)  A transfer is a
``send`` at its source and a ``recv`` at its destination, with the step's number as tag; what a
rank does in a step requires everything it did in its step before.  Adding up what a step brought is
a ``calc`` (in nanoseconds, as LogGOPSim reads it) after all of the rank's sends and receives in it.
"""

from __future__ import annotations

import math
from typing import TextIO

import numpy as np

from dgc_topo.schedule import Schedule
from dgc_topo.simulate.sizes import Sizes, checked_sizes


def write_goal(
    schedule: Schedule, sizes: Sizes, file: TextIO, *, reduce_s_per_byte: float = 0.0
) -> None:
    """Write *schedule* to *file*; bytes and nanoseconds are rounded up.

    The text of all ranks is collected before it is written: GOAL goes rank by rank, a schedule
    step by step.

    Args:
        schedule: Who sends what to whom.
        sizes: Bytes of each transfer.
        file: Where the text goes.
        reduce_s_per_byte: Time to add one received byte (gamma); 0 writes no ``calc``.

    Raises:
        ValueError: if a size is not a finite number, 0 or more, or the time is negative.
    """
    if not 0 <= reduce_s_per_byte < math.inf:
        raise ValueError(f"goal: reduce_s_per_byte {reduce_s_per_byte}, expected 0 or more")
    writers = [_Rank() for _ in range(schedule.world_size)]
    for index, step in enumerate(schedule.steps()):
        num_bytes = checked_sizes(sizes, index, step)
        ends = step.src.tolist(), step.dst.tolist(), num_bytes.tolist()
        for src, dst, size in zip(*ends, strict=True):
            whole = math.ceil(size)
            writers[src].add(index, f"send {whole}b to {dst} tag {index}")
            writers[dst].add(index, f"recv {whole}b from {src} tag {index}")
        if reduce_s_per_byte:
            added = np.where((step.keep != 0) & (step.weight != 0), num_bytes, 0.0)
            busy_ns = np.bincount(step.dst, added, schedule.world_size) * reduce_s_per_byte * 1e9
            for rank in np.flatnonzero(busy_ns).tolist():
                writers[rank].compute(math.ceil(busy_ns[rank]))
    file.write(f"num_ranks {schedule.world_size}\n")
    for rank, writer in enumerate(writers):
        file.write(f"\nrank {rank} {{\n")
        file.writelines(f"{line}\n" for line in writer.lines)
        file.write("}\n")


class _Rank:
    """The lines of one rank, and the labels of its latest two steps."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._count = 0
        self._index = -1
        self._before = range(0)
        self._now = range(0)

    def add(self, index: int, operation: str) -> None:
        """Add an operation of step *index*; steps come in order."""
        if index != self._index:
            self._index = index
            self._before, self._now = self._now, range(self._count + 1, self._count + 1)
        self._count += 1
        self._now = range(self._now.start, self._count + 1)
        self.lines.append(f"l{self._count}: {operation}")
        self.lines += [f"l{self._count} requires l{label}" for label in self._before]

    def compute(self, nanoseconds: int) -> None:
        """End the step with a computation that requires all of it; the next step requires this."""
        self._count += 1
        self.lines.append(f"l{self._count}: calc {nanoseconds}")
        self.lines += [f"l{self._count} requires l{label}" for label in self._now]
        self._now = range(self._count, self._count + 1)
