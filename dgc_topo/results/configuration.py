"""Which records belong together: the same configuration, measured or predicted, at any size."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from dgc_topo.results.measurement import Measurement
from dgc_topo.results.units import percent_text


class Configuration(NamedTuple):
    """What a user chose, leaving out world size, network and seed."""

    workload: str
    topology: str
    options: tuple[tuple[str, str], ...]
    compression: str
    density: float

    @classmethod
    def of(cls, measurement: Measurement) -> Configuration:
        """Return the configuration that *measurement* belongs to."""
        options = tuple((key, _plain(value)) for key, value in measurement.options.items())
        return cls(
            measurement.workload,
            measurement.topology,
            options,
            measurement.compression,
            measurement.density,
        )

    @property
    def options_label(self) -> str:
        """Options, such as ``algorithm=doubling, order=far``."""
        return ", ".join(f"{key}={value}" for key, value in self.options)

    @property
    def topology_label(self) -> str:
        """Topology with its options, such as ``butterfly (algorithm=doubling)``."""
        return f"{self.topology} ({self.options_label})" if self.options else self.topology

    @property
    def density_label(self) -> str:
        """What is sent, such as ``dense`` or ``dgc 0.1 %``."""
        if self.density == 1:
            return self.compression  # such as dense-fp16
        return f"{self.compression} {percent_text(self.density)}"

    @property
    def label(self) -> str:
        """Topology, options and density in one line."""
        return f"{self.topology_label}, {self.density_label}"


def measured(measurements: Iterable[Measurement]) -> list[Measurement]:
    """Return the records of real runs."""
    return [record for record in measurements if record.kind == "measured"]


def predicted(measurements: Iterable[Measurement]) -> list[Measurement]:
    """Return the records of simulations."""
    return [record for record in measurements if record.kind == "predicted"]


def networks(measurements: Iterable[Measurement]) -> list[str]:
    """Return the networks that were predicted, in order of appearance."""
    return list(dict.fromkeys(record.network for record in predicted(measurements)))


def by_configuration(measurements: Iterable[Measurement]) -> dict[Configuration, list[Measurement]]:
    """Return the records of every configuration, in order of appearance."""
    groups: dict[Configuration, list[Measurement]] = {}
    for record in measurements:
        groups.setdefault(Configuration.of(record), []).append(record)
    return groups


def _plain(value: str | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
