"""Tables of the steps under way: places, flows, and the flows that belong to each place.

A *place* is one rank's part in one step.  Rows are added step by step, and dropped from the front
when they are finished, so that the tables hold the steps between the slowest and the fastest rank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dgc_topo.arrays import BoolArray, FloatArray, IntArray
from dgc_topo.simulation.pattern import Pattern
from dgc_topo.simulation.pool import view_any

#: Value of ``open`` after a rank has left a place, and of ``waiting`` after a flow has ended.
OVER = -1


#: A step under way: its first and last flow, and its pattern.
_Under = tuple[int, int, Pattern]


class Agenda:
    """Tables over the places, flows and ends of flows of the steps under way.

    Attributes:
        flows: Per flow its two places, how many of its ends have not been posted, its size, the
            latest time at which an end was posted, its latency, its step, and its kind of work.
        places: Per place its rank, its unfinished flows, the rank's next place (or -1), where its
            ends are, how long the rank is busy after its last flow has ended, and how long before
            it posts the first one because it begins a run.
        ends: Flows of each place, one place after the other.
        last_place: Each rank's latest place (or -1), shape (world_size,).

    Args:
        world_size: Number of ranks.
        pad: Link that stands for no link.
    """

    def __init__(self, world_size: int, pad: int) -> None:
        self._steps: dict[int, _Under] = {}  # steps under way, by number
        self._num_steps = 0
        self._pad = pad
        self.last_place = np.full(world_size, -1)
        self.flows = Window(
            lambda: self.flows.base + _first(self.flows.used("waiting") > OVER),
            {"src_place": np.int64, "dst_place": np.int64, "waiting": np.int64, "kind": np.int64}
            | {
                "step": np.int64,
                "bytes": np.float64,
                "delay_s": np.float64,
                "posted_s": np.float64,
            },
        )
        self.places = Window(
            lambda: self.places.base + _first(self.places.used("open") > OVER),
            {"rank": np.int64, "open": np.int64, "next": np.int64}
            | {"first_end": np.int64, "num_ends": np.int64, "busy_s": np.float64}
            | {"start_s": np.float64},
        )
        self.ends = Window(self._first_end, {"flow": np.int64})

    def _first_end(self) -> int:
        unfinished = _first(self.places.used("open") > OVER)
        if unfinished == self.places.end - self.places.base:
            return self.ends.end
        return int(self.places["first_end"][unfinished])

    def is_idle(self, ranks: IntArray) -> BoolArray:
        """Return a mask of the ranks that have left all places they have had so far."""
        last = self.last_place[ranks] - self.places.base
        idle = last < 0  # it never had a place, or the place has been dropped
        if not idle.all():
            known = ~idle
            idle[known] = self.places["open"][last[known]] == OVER
        return idle

    def add(
        self,
        pattern: Pattern,
        num_bytes: FloatArray,
        delay_s: FloatArray,
        busy_s: FloatArray | None,
        start_s: FloatArray | float = 0.0,
        kind: IntArray | int = 0,
    ) -> BoolArray:
        """Add one step.

        Args:
            pattern: The step's flows and members.
            num_bytes: Size of each flow, shape (num_flows,).
            delay_s: Latency of each flow, shape (num_flows,).
            busy_s: Seconds that each member is busy at the end, shape (num_members,), or None.
            start_s: Seconds that each member takes to begin the run, likewise.
            kind: Kind of each flow's work on sparse messages, see `dgc_topo.simulation.work`.

        Returns:
            Mask of the members that have reached the step already, shape (num_members,).
        """
        here = self.is_idle(pattern.members)
        all_here = bool(here.all())
        first_end, first_flow = self.ends.end, self.flows.end
        if not all_here:
            rows = self.ends.extend(2 * pattern.num_flows)
            np.add(pattern.ends, first_flow, out=self.ends["flow"][rows])
        first_place = self._add_places(pattern, here, first_end)
        self.places["start_s"][first_place - self.places.base :][: len(pattern.members)] = start_s
        if busy_s is not None:
            self.places["busy_s"][first_place - self.places.base :][: len(busy_s)] = busy_s
        rows = self.flows.extend(pattern.num_flows)
        flows = self.flows
        np.add(pattern.src_at, first_place, out=flows["src_place"][rows])
        np.add(pattern.dst_at, first_place, out=flows["dst_place"][rows])
        flows["waiting"][rows] = 0
        flows["kind"][rows] = kind
        if not all_here:
            away = (~here).astype(np.int64)
            flows["waiting"][rows] = away[pattern.src_at] + away[pattern.dst_at]
            flows["bytes"][rows] = num_bytes
            flows["delay_s"][rows] = delay_s
            flows["step"][rows] = self._remember(pattern, first_flow)
        return here

    def _remember(self, pattern: Pattern, first_flow: int) -> int:
        """Keep a step's pattern as long as its flows are in the table; return its number."""
        for number, (_, last_flow, _) in list(self._steps.items()):
            if last_flow >= self.flows.base:
                break
            del self._steps[number]
        self._num_steps += 1
        last_flow = first_flow + pattern.num_flows - 1
        self._steps[self._num_steps] = first_flow, last_flow, pattern
        return self._num_steps

    def hops_of(self, row: int) -> tuple[int, ...]:
        """Return the resources that one flow (row) uses."""
        first_flow, _, pattern = self._steps[self.flows.views["step"][row]]
        return pattern.routes[row + self.flows.base - first_flow]

    def hops(self, rows: IntArray) -> IntArray:
        """Return the resources that flows (rows) use, shape (max_hops, num_flows), padded."""
        steps = self.flows["step"][rows]
        numbers = np.unique(steps).tolist()
        most = max(len(self._steps[number][2].hops) for number in numbers)
        hops = np.full((most, len(rows)), self._pad)
        for number in numbers:
            first_flow, _, pattern = self._steps[number]
            mine = slice(None) if len(numbers) == 1 else steps == number
            hops[: len(pattern.hops), mine] = pattern.hops[
                :, rows[mine] + self.flows.base - first_flow
            ]
        return hops

    def _add_places(self, pattern: Pattern, here: BoolArray, first_end: int) -> int:
        """Add the members' places, and link them to the places that come before."""
        first_place, places, members = self.places.end, self.places, pattern.members
        rows = places.extend(len(members))
        places["rank"][rows] = members
        places["open"][rows] = pattern.degree
        places["next"][rows] = -1
        places["num_ends"][rows] = pattern.degree
        places["first_end"][rows] = first_end
        ids = np.arange(first_place, first_place + len(members))
        if not here.all():
            places["first_end"][rows] += np.cumsum(pattern.degree) - pattern.degree
            away = ~here
            places["next"][self.last_place[members[away]] - places.base] = ids[away]
        self.last_place[members] = ids
        return first_place

    def ends_of(self, rows: IntArray) -> tuple[IntArray, IntArray]:
        """Return the flows (rows) of places (rows), and each one's turn at its place, from 0."""
        count = self.places["num_ends"][rows]
        upto = np.cumsum(count)
        turn = np.arange(upto[-1]) - np.repeat(upto - count, count)
        at = turn + np.repeat(self.places["first_end"][rows] - self.ends.base, count)
        return self.ends["flow"][at] - self.flows.base, turn


def count_down(column: IntArray, rows: IntArray) -> IntArray:
    """Take one from *column* at every occurrence of a row; return the rows that are now 0."""
    if not len(rows):
        return rows
    low, high = int(rows.min()), int(rows.max())
    if high - low < 8 * len(rows):
        times = np.bincount(rows - low)
        part = column[low : high + 1]
        part -= times
        return low + np.flatnonzero((part == 0) & (times > 0))
    distinct, times = np.unique(rows, return_counts=True)
    column[distinct] -= times
    return np.asarray(distinct[column[distinct] == 0], np.int64)


def _first(mask: BoolArray) -> int:
    """Return the position of the first True, or the length if there is none."""
    first = int(mask.argmax()) if len(mask) else 0
    return first if len(mask) and mask[first] else len(mask)


#: Rows of an empty table.
SMALL = 4096


class Window:
    """Columns over consecutive ids ``base .. end - 1``; id ``i`` is at row ``i - base``.

    Args:
        first_in_use: Returns the smallest id that is still needed; called when space runs out.
        columns: Name and dtype of each column.
    """

    def __init__(
        self, first_in_use: Callable[[], int], columns: Mapping[str, type[np.generic]]
    ) -> None:
        self.base = 0
        self.end = 0
        self._first_in_use = first_in_use
        self._columns: dict[str, npt.NDArray[Any]] = {
            name: np.zeros(SMALL, dtype) for name, dtype in columns.items()
        }
        self.views = {name: view_any(column) for name, column in self._columns.items()}

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self._columns[name]

    def used(self, name: str) -> npt.NDArray[Any]:
        """Return the rows of a column that hold an id."""
        return self._columns[name][: self.end - self.base]

    @property
    def _capacity(self) -> int:
        return len(next(iter(self._columns.values())))

    def extend(self, count: int) -> slice:
        """Add *count* rows with undefined content; return their positions."""
        if self.end - self.base + count > self._capacity:
            self._make_room(count)
        rows = slice(self.end - self.base, self.end - self.base + count)
        self.end += count
        return rows

    def _make_room(self, count: int) -> None:
        first = min(max(self._first_in_use(), self.base), self.end)
        shift, kept = first - self.base, self.end - first
        self.base = first
        if not kept and count <= self._capacity:
            return
        # Half is free afterwards, so that the cost of copying is spread over many rows.
        capacity = max(SMALL, 2 * (kept + count))
        for name, column in self._columns.items():
            new = np.zeros(capacity, column.dtype)
            new[:kept] = column[shift : shift + kept]
            self._columns[name] = new
        self.views = {name: view_any(column) for name, column in self._columns.items()}
