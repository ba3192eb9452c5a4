"""Grouping of records by configuration, whether measured or predicted, at any world size."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from dgc_topo.records.measurement import Measurement
from dgc_topo.sizes import is_sparse
from dgc_topo.units import percent_text

#: Averaging rules that topology and compression say already, with an exchange in every step.
_USUAL = ("", "gradients", "updates", "d-psgd")
_LEAVES_OUT = re.compile(r"[:,](?:participation|left_out)=")

#: Column of a record: its kind, network and world size.
_Place = tuple[str, str, int]


class Configuration(NamedTuple):
    """A user's choices, except world size, network and seed.

    Records of one configuration that differ in anything else, or in nothing at all, belong to
    different series: the second series has *repeat* 1, and so on (see `by_configuration`).
    """

    workload: str
    topology: str
    options: tuple[tuple[str, str], ...]
    compression: str
    density: float
    averaging: str = ""
    repeat: int = 0

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
            _averaging(measurement),
        )

    @property
    def options_label(self) -> str:
        """Options, such as ``algorithm=doubling, order=far``."""
        return ", ".join(f"{key}={value}" for key, value in self.options)

    @property
    def topology_label(self) -> str:
        """Topology with its options, such as ``butterfly (algorithm=doubling)``."""
        label = f"{self.topology} ({self.options_label})" if self.options else self.topology
        return f"{label} #{self.repeat + 1}" if self.repeat else label

    @property
    def density_label(self) -> str:
        """Name of the compression, such as ``dense`` or ``diloco:every=50, dgc 0.1 %``."""
        label = self.compression  # such as dense-fp16
        if is_sparse(self.density):
            label = f"{self.compression} {percent_text(self.density)}"
        return f"{self.averaging}, {label}" if self.averaging else label

    @property
    def label(self) -> str:
        """Topology, options and density in one line."""
        return f"{self.topology_label}, {self.density_label}"


def _averaging(record: Measurement) -> str:
    """Return the averaging rule, unless it is the usual one of topology and compression."""
    text = record.averaging or ""
    rule = text.partition(":")[0]
    if rule == "updates" and record.compression == "dense":  # where gradients are usual
        return text
    is_usual = rule in _USUAL and record.every == 1 and not _LEAVES_OUT.search(text)
    return "" if is_usual else text


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
    """Return the records of every configuration, in order of appearance.

    Records of one configuration, kind, network and world size differ only in their seeds, so that
    they can be averaged.
    """
    groups: dict[Configuration, list[Measurement]] = {}
    works: dict[Configuration, tuple[object, ...]] = {}
    taken: dict[tuple[Configuration, _Place], tuple[Setting, set[int]]] = {}
    for record in measurements:
        configuration, setting = Configuration.of(record), Setting.of(record)
        while True:
            if works.setdefault(configuration, setting.work) == setting.work:
                key = configuration, _place(record)
                known, seeds = taken.setdefault(key, (setting, set()))
                if known == setting and record.seed not in seeds:
                    break
            configuration = configuration._replace(repeat=configuration.repeat + 1)
        seeds.add(record.seed)
        groups.setdefault(configuration, []).append(record)
    return groups


class Setting(NamedTuple):
    """Facts that decide a record, beside its configuration, world size and seed."""

    scenario: str
    workload: str
    gradient_bytes: int
    batch_size_per_worker: int
    network: str
    conditions: tuple[object, ...]

    @classmethod
    def of(cls, record: Measurement) -> Setting:
        """Return the setting of *record*."""
        conditions: tuple[object, ...] = (record.bucket_bytes, record.overlap)
        if record.kind == "measured":
            conditions += (record.machine, record.workers, record.time_scale, record.rung)
        return cls(
            record.scenario,
            record.workload,
            record.gradient_bytes,
            record.batch_size_per_worker,
            record.network,
            conditions,
        )

    @property
    def work(self) -> tuple[object, ...]:
        """Work of a worker in a step: only records that share it can be compared."""
        return self[:4]


def _place(record: Measurement) -> _Place:
    """Return a record's column; measured runs share one column for all networks."""
    network = record.network if record.kind == "predicted" else ""
    return record.kind, network, record.world_size


def _plain(value: str | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
