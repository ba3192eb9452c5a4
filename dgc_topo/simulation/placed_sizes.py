"""Sizes of exact sparse sums in two passes: places first, then values (see `payload.placed`)."""

from __future__ import annotations

import numpy as np

from dgc_topo.arrays import FloatArray
from dgc_topo.schedule import Schedule, Step, then
from dgc_topo.simulation.step_sizes import StepSizes
from dgc_topo.simulation.transfer_sizes import UnionSizes
from dgc_topo.simulation.unions import Growth
from dgc_topo.wire.coding import EntryCoding, WireCoding


class _PlacesCoding:
    """Coding of places: 2-bit values that do not matter, and one scale whatever the layers are."""

    _coding = WireCoding(wire_dtype="int2")

    def expected_bytes(
        self, length: FloatArray, entries: FloatArray, sections: FloatArray | float = 1.0
    ) -> FloatArray:
        """Return the bytes of messages, see `EntryCoding`."""
        return self._coding.expected_bytes(length, entries)

    def least_bytes(self, length: float, entries: FloatArray) -> FloatArray:
        """Return a lower bound, see `EntryCoding`."""
        return self._coding.least_bytes(length, entries)


def placed_sizes(  # each has a name
    schedule: Schedule,
    *,
    length: int,
    entries: float,
    coding: EntryCoding,
    growth: Growth,
    dense_bytes: float = 0.0,
    layer_sizes: tuple[int, ...] = (),
) -> tuple[UnionSizes, UnionSizes]:
    """Return the sizes of both passes of a schedule.

    The second pass has the places of the sum for its elements, and carries what travels dense.

    Args:
        schedule: The schedule of each pass.
        length: Elements of the buffer.
        entries: Entries that each contributor sends.
        coding: Coding of the second pass's messages.
        growth: Model of unions.
        dense_bytes: See `UnionSizes`.
        layer_sizes: See `UnionSizes`.

    Raises:
        ValueError: as `UnionSizes`.
    """
    places = UnionSizes(
        schedule, length=length, entries=entries, coding=_PlacesCoding(), growth=growth
    )
    union = float(growth(np.array([len(schedule.contributors)]))[0])
    whole = max(1, round(union))
    values = UnionSizes(
        schedule,
        length=whole,
        entries=min(entries, whole),
        coding=coding,
        growth=growth,
        dense_bytes=dense_bytes,
        layer_sizes=tuple(round(size * whole / length) for size in layer_sizes),
    )
    return places, values


def twice(schedule: Schedule) -> Schedule:
    """Return the schedule of both passes."""
    return then(schedule, schedule, goal=schedule.goal, servers=schedule.servers)


class PlacedSizes:
    """Sizes of the transfers of both passes, for `twice` a schedule.

    Args:
        schedule: The schedule of one pass.
        length: As `placed_sizes`, as are the others.
        entries: Entries that each contributor sends.
        coding: Coding of the second pass's messages.
        growth: Model of unions.

    Raises:
        ValueError: as `UnionSizes`.
    """

    def __init__(
        self, schedule: Schedule, *, length: int, entries: float, coding: WireCoding, growth: Growth
    ) -> None:
        self._num_steps = sum(1 for _ in schedule.steps())
        self._places, self._values = placed_sizes(
            schedule, length=length, entries=entries, coding=coding, growth=growth
        )

    def check_fit(self, schedule: Schedule) -> None:
        """Refuse a schedule with other chunks, ranks or servers."""
        self._places.check_fit(schedule)

    def of_step(self, step_index: int, step: Step) -> StepSizes:
        """Return the sizes of a step; call it for every step, in order."""
        if step_index < self._num_steps:
            return self._places.of_step(step_index, step)
        return self._values.of_step(step_index - self._num_steps, step)
