"""Export of a schedule as GOAL text, for LogGOPSim, ATLAHS and other simulators.

(Hoefler, Siebert & Lumsdaine, "Group Operation Assembly Language", ICPP 2009.)  A transfer is a
``send`` at its source and a ``recv`` at its destination, with the step's number as tag.  A rank's
operations in a step require all of its operations in its previous step.  Adding what arrived in a
step is a ``calc`` (in nanoseconds, as LogGOPSim reads it) after all of the rank's sends and
receives in that step.

Readers with one serial NIC per rank send in the order of the text.  Each rank's messages of a step
therefore begin with the one to the next rank, then the one after that, and so on: if all began with
rank 0, its NIC would be the only one that receives.  Empty messages are left out (LogGOPSim takes a
size of 0 for 2^64).  A rank that has nothing to do computes for 0 ns, because a program needs at
least one operation.
"""

from __future__ import annotations

import math
from typing import TextIO

import numpy as np

from dgc_topo.arrays import IntArray
from dgc_topo.schedule import Schedule, Step
from dgc_topo.simulation.step_sizes import Sizes, checked_sizes

#: Readers keep sizes and times in 64 bits; this is the first number that is too large.
_TOO_MUCH = 2.0**64


def write_goal(
    schedule: Schedule, sizes: Sizes, file: TextIO, *, reduce_s_per_byte: float = 0.0
) -> None:
    """Write *schedule* to *file*; bytes and nanoseconds are rounded up.

    All ranks' lines are collected before they are written, because GOAL is ordered by rank and a
    schedule by step.

    Args:
        schedule: Schedule to write.
        sizes: Sizes of its transfers.
        file: File that the text goes to.
        reduce_s_per_byte: Time to add one received byte (gamma); 0 writes no ``calc``.

    Raises:
        ValueError: if a size is not a finite number, 0 or more, or the time is negative, or either
            is beyond 64 bits.
    """
    if not 0 <= reduce_s_per_byte < math.inf:
        raise ValueError(f"goal: reduce_s_per_byte {reduce_s_per_byte}, expected 0 or more")
    writers = [_Rank() for _ in range(schedule.world_size)]
    for index, step in enumerate(schedule.steps()):
        num_bytes = checked_sizes(sizes, index, step).num_bytes
        for transfer in _next_ranks_first(step, schedule.world_size).tolist():
            src, dst = int(step.src[transfer]), int(step.dst[transfer])
            whole = _whole(num_bytes[transfer], f"step {index}: {step[transfer]}", "bytes")
            if whole:
                writers[src].add(index, f"send {whole}b to {dst} tag {index}")
                writers[dst].add(index, f"recv {whole}b from {src} tag {index}")
        if reduce_s_per_byte:
            added = np.where((step.keep != 0) & (step.weight != 0), num_bytes, 0.0)
            busy_ns = np.bincount(step.dst, added, schedule.world_size) * reduce_s_per_byte * 1e9
            for rank in np.flatnonzero(busy_ns).tolist():
                writers[rank].compute(_whole(busy_ns[rank], f"step {index}: rank {rank}", "ns"))
    file.write(f"num_ranks {schedule.world_size}\n")
    for rank, writer in enumerate(writers):
        file.write(f"\nrank {rank} {{\n")
        file.writelines(f"{line}\n" for line in writer.lines or ["l1: calc 0"])
        file.write("}\n")


def _next_ranks_first(step: Step, world_size: int) -> IntArray:
    """Return the order of a step's transfers by distance, from the source forward."""
    return np.argsort((step.dst - step.src) % world_size, kind="stable")


def _whole(value: float, where: str, unit: str) -> int:
    """Return *value* rounded up, if readers can hold it."""
    if not value < _TOO_MUCH:
        raise ValueError(f"goal: {where}: {value:.6g} {unit}, expected less than 2^64")
    return math.ceil(value)


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
        """End the step with a computation that follows all of it and precedes the next step."""
        self._count += 1
        self.lines.append(f"l{self._count}: calc {nanoseconds}")
        self.lines += [f"l{self._count} requires l{label}" for label in self._now]
        self._now = range(self._count, self._count + 1)
