"""Write a schedule as GOAL text, for LogGOPSim, ATLAHS and whoever else reads it.

(Hoefler, Siebert & Lumsdaine, "Group Operation Assembly Language", ICPP 2009.)  A transfer is a
``send`` at its source and a ``recv`` at its destination, with the step's number as tag; what a
rank does in a step requires everything it did in its step before.
"""

from __future__ import annotations

import math
from typing import TextIO

from dgc_topo.schedule import Schedule
from dgc_topo.simulate.sizes import Sizes, checked_sizes


def write_goal(schedule: Schedule, sizes: Sizes, file: TextIO) -> None:
    """Write *schedule* to *file*; bytes are rounded up.

    The text of all ranks is collected before it is written: GOAL goes rank by rank, a schedule
    step by step.

    Raises:
        ValueError: if a size is not a finite number, 0 or more.
    """
    writers = [_Rank() for _ in range(schedule.world_size)]
    for index, step in enumerate(schedule.steps()):
        num_bytes = checked_sizes(sizes, index, step).tolist()
        for src, dst, size in zip(step.src.tolist(), step.dst.tolist(), num_bytes, strict=True):
            whole = math.ceil(size)
            writers[src].add(index, f"send {whole}b to {dst} tag {index}")
            writers[dst].add(index, f"recv {whole}b from {src} tag {index}")
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
