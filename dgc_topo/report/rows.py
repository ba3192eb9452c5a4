"""The rows of a comparison: which records each of them shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dgc_topo.records.configuration import Configuration, by_configuration, measured, predicted
from dgc_topo.records.measurement import Measurement


@dataclass(frozen=True, slots=True)
class Row:
    """One configuration at one world size.

    Attributes:
        configuration: Which.
        world_size: Ranks that were measured, or the most that were predicted.
        measured: Its runs, one per seed.
        predicted: Its predictions on all networks, at all world sizes.
    """

    configuration: Configuration
    world_size: int
    measured: tuple[Measurement, ...]
    predicted: tuple[Measurement, ...]

    @property
    def records(self) -> tuple[Measurement, ...]:
        """What was measured, or else what was predicted at this size."""
        here = (m for m in self.predicted if m.world_size == self.world_size)
        return self.measured or tuple(here)

    @property
    def first(self) -> Measurement:
        """One of its records; all say the same of what a worker does."""
        return (*self.measured, *self.predicted)[0]

    @property
    def num_seeds(self) -> int:
        """How many seeds it is the mean of."""
        return len({record.seed for record in (*self.measured, *self.predicted)})

    def on(self, network: str, world_size: int) -> tuple[Measurement, ...]:
        """Return the predictions for a network and a world size, one per seed."""
        wanted = (network, world_size)
        return tuple(m for m in self.predicted if (m.network, m.world_size) == wanted)


def rows_of(records: Sequence[Measurement]) -> list[Row]:
    """Return a row per configuration and world size, in order of appearance."""
    rows = []
    for configuration, group in by_configuration(records).items():
        forecast = tuple(predicted(group))
        sizes = dict.fromkeys(m.world_size for m in measured(group))
        for size in sizes or [max(m.world_size for m in group)]:
            runs = tuple(m for m in measured(group) if m.world_size == size)
            rows.append(Row(configuration, size, runs, forecast))
    return rows
