"""Sizes of exact sparse sums in two passes: places first, then values (see `payload.placed`)."""

from __future__ import annotations

import numpy as np

from dgc_topo.schedule import Schedule, Step, then
from dgc_topo.simulation.transfer_sizes import StepSizes, UnionSizes
from dgc_topo.simulation.unions import Growth
from dgc_topo.wire.coding import WireCoding

_PLACES = WireCoding(wire_dtype="int2")  # of messages without values that matter


def twice(schedule: Schedule) -> Schedule:
    """Return the schedule of both passes."""
    return then(schedule, schedule, goal=schedule.goal, servers=schedule.servers)


class PlacedSizes:
    """Sizes of the transfers of both passes, for `twice` a schedule.

    Args:
        schedule: The schedule of one pass.
        length: Elements of the buffer.
        entries: Entries that each contributor sends.
        coding: Coding of the second pass's messages.
        growth: Model of unions.

    Raises:
        ValueError: as `UnionSizes`.
    """

    def __init__(
        self, schedule: Schedule, *, length: int, entries: float, coding: WireCoding, growth: Growth
    ) -> None:
        self._schedule = schedule
        whole = float(growth(np.array([len(schedule.contributors)]))[0])
        self._num_steps = sum(1 for _ in schedule.steps())
        self._places = UnionSizes(
            schedule, length=length, entries=entries, coding=_PLACES, growth=growth
        )
        self._values = UnionSizes(
            schedule,
            length=max(1, round(whole)),
            entries=min(entries, max(1, round(whole))),
            coding=coding,
            growth=growth,
        )

    def check_fit(self, schedule: Schedule) -> None:
        """Refuse a schedule with other chunks, ranks or servers."""
        self._places.check_fit(schedule)

    def of_step(self, step_index: int, step: Step) -> StepSizes:
        """Return the sizes of a step; call it for every step, in order."""
        if step_index < self._num_steps:
            return self._places.of_step(step_index, step)
        return self._values.of_step(step_index - self._num_steps, step)
