"""Steps of a schedule kept in memory, and what each message has merged by then.

A prediction reads the same schedule again for every bucket, model, density and network.  Schedules
of moderate size are therefore kept, with the numbers of contributors of their messages.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from dgc_topo.arrays import IntArray
from dgc_topo.schedule import Schedule, Step
from dgc_topo.schedule.contributors import Contributors
from dgc_topo.simulation.pattern import is_one

#: Most weight of a schedule that is kept, and of all that are kept together: the chunks that it
#: sends, and the weight of a step itself, in memory.
MOST_WEIGHT = 1 << 18
MOST_KEPT = 1 << 22
STEP_WEIGHT = 16


class Merged(NamedTuple):
    """Contributors of the chunks that a step sends; see `Contributors.advance`.

    Attributes:
        sent: Contributors of every chunk of every transfer, in order.
        received: Contributors that the receiver has of it before the step.
        first: Position at which each transfer's chunks begin; None if each has one.
    """

    sent: IntArray
    received: IntArray
    first: IntArray | None


class Alike(NamedTuple):
    """Steps whose messages are all of one size.

    Attributes:
        row: Row of each step in the other two, or -1, shape (num_steps,).
        contributors: Contributors of every chunk that such a step sends, shape (num_rows,).
        chunks: Chunks in each message, same shape.
    """

    row: IntArray
    contributors: IntArray
    chunks: IntArray


@dataclass(frozen=True, eq=False)
class KeptSteps:
    """Steps of a schedule, in memory.

    Attributes:
        schedule: The schedule.
        steps: Its steps.
        weight: Chunks that are sent in all steps, and `STEP_WEIGHT` for each of these.
    """

    schedule: Schedule
    steps: tuple[Step, ...]
    weight: int

    def has(self, index: int, step: Step) -> bool:
        """Return True if *step* is the step number *index* that is kept here."""
        return index < len(self.steps) and self.steps[index] is step

    @cached_property
    def runs(self) -> tuple[range, ...]:
        """Numbers of consecutive steps between the same ranks; empty steps are left out."""
        runs: list[range] = []
        for index, step in enumerate(self.steps):
            last = self.steps[runs[-1][0]] if runs and runs[-1].stop == index else None
            if last is not None and last.src is step.src and last.dst is step.dst:
                runs[-1] = range(runs[-1].start, index + 1)
            elif len(step):
                runs.append(range(index, index + 1))
        return tuple(runs)

    @cached_property
    def counts(self) -> IntArray:
        """Chunks in each message of a step if all have as many, else 0, shape (num_steps,)."""
        alike = (int(s.count[0]) if is_one(s.count) else 0 for s in self.steps)
        return np.array([*alike], np.int64)

    @cached_property
    def merged(self) -> tuple[Merged, ...]:
        """Contributors of every step's messages."""
        counters = Contributors(self.schedule)
        return tuple(Merged(*counters.advance(step)) for step in self.steps)

    @cached_property
    def alike(self) -> Alike:
        """Steps whose messages are all alike."""
        rows: list[int] = []
        kinds: list[tuple[int, int]] = []
        for step, merged in zip(self.steps, self.merged, strict=True):
            if is_one(step.count) and is_one(merged.sent):
                rows.append(len(kinds))
                kinds.append((int(merged.sent[0]), int(step.count[0])))
            else:
                rows.append(-1)
        contributors, chunks = np.array(kinds, np.int64).reshape(-1, 2).T
        return Alike(np.array(rows, np.int64), contributors, chunks)


class _Memory:
    """Steps of the schedules used last, and the last schedules that were too large."""

    def __init__(self) -> None:
        # By identity: a schedule's function need not be hashable, and equal ones may differ.
        self._kept: OrderedDict[int, KeptSteps] = OrderedDict()
        self._too_large: deque[Schedule] = deque(maxlen=4)
        self._weight = 0

    def find(self, schedule: Schedule) -> KeptSteps | None:
        kept = self._kept.get(id(schedule))
        if kept is not None:
            self._kept.move_to_end(id(schedule))
            return kept
        if any(schedule is other for other in self._too_large):
            return None
        kept = _make(schedule)
        if kept is None:
            self._too_large.append(schedule)
            return None
        self._kept[id(schedule)] = kept  # it holds the schedule, so that the id stays its own
        self._weight += kept.weight
        while self._weight > MOST_KEPT:
            _, oldest = self._kept.popitem(last=False)
            self._weight -= oldest.weight
        return kept


def _make(schedule: Schedule) -> KeptSteps | None:
    columns, steps, weight = _Columns(), [], 0
    for step in schedule.steps():
        weight += int(step.count.sum()) + STEP_WEIGHT
        if weight > MOST_WEIGHT:
            return None
        steps.append(columns.copy(step))
    return KeptSteps(schedule, tuple(steps), weight)


class _Columns:
    """Columns of steps that nobody can change; equal ones are one array.

    A schedule may write into its own arrays for the next step.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[int, bytes], IntArray] = {}

    def copy(self, step: Step) -> Step:
        """Return a copy of a step."""
        names = ("src", "dst", "chunk", "count", "keep", "weight")
        columns: dict[str, Any] = {name: self._copy(getattr(step, name)) for name in names}
        return replace(step, **columns)

    def _copy(self, column: IntArray) -> IntArray:
        is_spread = column.strides == (0,)  # one number, by `numpy.broadcast_to`
        values = column[:1] if is_spread else column
        key = len(column) if is_spread else -1, values.tobytes()
        kept = self._kept.get(key)
        if kept is None:
            kept = values.copy()
            kept.flags.writeable = False
            self._kept[key] = kept = np.broadcast_to(kept, column.shape) if is_spread else kept
        return kept


_memory = _Memory()


def find_kept(schedule: Schedule) -> KeptSteps | None:
    """Return the steps in memory, read at the first call; None if there are too many."""
    return _memory.find(schedule)
