"""The comparison table as rows of text: measured and predicted columns per configuration.

The terminal, Markdown and HTML versions all show these rows and headings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal, NamedTuple

from dgc_topo.records.configuration import (
    Configuration,
    by_configuration,
    measured,
    networks,
    predicted,
)
from dgc_topo.records.measurement import ONE_DENSE_WORKER, Measurement
from dgc_topo.units import bytes_text, seconds_text, three_digits, times_text

MISSING = "-"


class Heading(NamedTuple):
    """Heading of a column.

    Attributes:
        group: "" for columns that name the row, else "measured" or "predicted NETWORK".
        name: Name of the column's quantity.
        detail: Detail such as "4 ranks".
        meaning: Explanation in one sentence, for the report.
    """

    group: str
    name: str
    detail: str = ""
    meaning: str = ""


class Cell(NamedTuple):
    """One entry; *best* marks the fastest of its column."""

    text: str
    best: bool = False


@dataclass(frozen=True, slots=True)
class Comparison:
    """A table as text.

    Attributes:
        headings: One per column.
        rows: Each has one cell per heading.
    """

    headings: tuple[Heading, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, slots=True)
class _Row:
    """One configuration at one world size.

    Attributes:
        configuration: The configuration.
        world_size: Number of measured ranks, or the largest predicted one.
        measured: Records of the runs, one per seed.
        predicted: Records of the predictions on all networks, at all world sizes.
    """

    configuration: Configuration
    world_size: int
    measured: tuple[Measurement, ...]
    predicted: tuple[Measurement, ...]

    @property
    def records(self) -> tuple[Measurement, ...]:
        """Measured records, or else those predicted at this size."""
        here = (m for m in self.predicted if m.world_size == self.world_size)
        return self.measured or tuple(here)

    @property
    def first(self) -> Measurement:
        """First record; all records of a row agree on the work of a worker."""
        return (*self.measured, *self.predicted)[0]

    @property
    def num_seeds(self) -> int:
        """Number of seeds behind the means."""
        return len({record.seed for record in (*self.measured, *self.predicted)})

    def on(self, network: str, world_size: int) -> tuple[Measurement, ...]:
        """Return the predictions for a network and a world size, one per seed."""
        wanted = (network, world_size)
        return tuple(m for m in self.predicted if (m.network, m.world_size) == wanted)


class _Column(NamedTuple):
    """Functions for a column: the text of each row, and the number that decides the best row."""

    heading: Heading
    text: Callable[[_Row], str | None]
    number: Callable[[_Row], float | None] = lambda _: None
    best: Literal["lowest", "highest"] | None = None


def compare(measurements: Iterable[Measurement]) -> Comparison:
    """Return the comparison of all configurations, in the order of the records.

    Records of one configuration and world size that differ only in their seeds become one row of
    means, with the number of seeds; all others have rows of their own.
    """
    records = list(measurements)
    rows = _rows_of(records)
    sizes = sorted({row.world_size for row in rows})
    columns = [
        *_name_columns(rows, sizes),
        *_run_columns(records, f"{sizes[0]} ranks" if len(sizes) == 1 else "", rows),
        *_prediction_columns(records, sizes),
    ]
    if any(row.num_seeds > 1 for row in rows):
        meaning = "Runs behind a row's means, which differ in nothing but their seed."
        columns.append(_Column(Heading("", "Seeds", "", meaning), lambda row: str(row.num_seeds)))
    cells = [_cells(column, rows) for column in columns]
    return Comparison(tuple(column.heading for column in columns), tuple(zip(*cells, strict=True)))


def _rows_of(records: Sequence[Measurement]) -> list[_Row]:
    """Return a row per configuration and world size, in order of appearance."""
    rows = []
    for configuration, group in by_configuration(records).items():
        forecast = tuple(predicted(group))
        sizes = dict.fromkeys(m.world_size for m in measured(group))
        for size in sizes or [max(m.world_size for m in group)]:
            runs = tuple(m for m in measured(group) if m.world_size == size)
            rows.append(_Row(configuration, size, runs, forecast))
    return rows


def _name_columns(rows: Sequence[_Row], sizes: Sequence[int]) -> list[_Column]:
    """Return the columns that name a row; most are left out if all rows agree in them."""

    def column(name: str, meaning: str, text: Callable[[_Row], str]) -> _Column:
        return _Column(Heading("", name, "", meaning), text)

    density = (
        "Fraction of gradient elements that a worker sends in a step, once the warm-up is over; "
        "dense sends all of them uncompressed."
    )
    columns = [
        column(
            "Topology",
            "Communication pattern, with the options that were set.",
            lambda row: row.configuration.topology_label,
        ),
        column("Density", density, lambda row: row.configuration.density_label),
    ]
    if len({row.configuration.workload for row in rows}) > 1:
        workload = column("Workload", "Model and data set.", lambda r: r.configuration.workload)
        columns.insert(0, workload)
    if len({row.first.scenario for row in rows}) > 1:
        scenario = column("Scenario", "What the records are of.", lambda row: row.first.scenario)
        columns.insert(0, scenario)
    if _differ(rows, lambda row: row.first.batch_size_per_worker):
        meaning = "Images, or streams of text, per worker and step."
        columns.append(column("Batch", meaning, lambda r: str(r.first.batch_size_per_worker)))
    if _differ(rows, lambda row: row.first.gradient_bytes):
        meaning = "Dense bytes of one worker's gradient."
        columns.append(column("Gradient", meaning, lambda r: bytes_text(r.first.gradient_bytes)))
    if len(sizes) > 1:
        meaning = "Processes of the run, servers included."
        columns.append(column("Ranks", meaning, lambda row: str(row.world_size)))
    return columns


def _differ(rows: Sequence[_Row], value: Callable[[_Row], object]) -> bool:
    """Return True if rows of one workload and topology differ in a value."""
    found: dict[tuple[str, str], set[object]] = {}
    for row in rows:
        name = row.configuration.workload, row.first.topology
        found.setdefault(name, set()).add(value(row))
    return any(len(values) > 1 for values in found.values())


def _run_columns(records: Sequence[Measurement], ranks: str, rows: Sequence[_Row]) -> list[_Column]:
    """Return the columns of measured runs; if there are none, those of the bytes on the wire."""
    group = "measured" if measured(records) else "predicted"
    sent = "Bytes that the busiest rank sends in one training step, after the warm-up."
    ratio = (
        "Dense bytes of one worker's own gradient over its encoded bytes, indices included; sums "
        "of several workers hold more entries, so wire bytes shrink less."
    )
    columns = [
        _means(
            Heading(group, "wire bytes per step", ranks, sent),
            lambda row: [m.wire_bytes_per_step for m in row.records],
            bytes_text,
        ),
        _means(
            Heading(group, "compression ratio", "own gradient", ratio),
            lambda row: [m.compression_ratio for m in row.records],
            times_text,
        ),
    ]
    if group == "predicted":
        return columns
    time = (
        "Median time of one training step on this machine, whose processes share its cores: "
        "compare rows with it, not networks."
    )
    step = _means(
        Heading("measured", "step time here", ranks, time),
        lambda row: [m.step_time_s for m in row.measured if m.workers == "processes"],
        seconds_text,
        "lowest",
    )
    metrics = dict.fromkeys(m.quality.metric for row in rows for m in row.measured if m.quality)
    return [*map(_quality_column, metrics), *columns, step]


def _quality_column(metric: str) -> _Column:
    meaning = {
        "accuracy": "Fraction of the test set classified correctly after the last epoch; "
        "higher is better.",
        "perplexity": "Perplexity on the test set after the last epoch; lower is better.",
        "loss": "Mean loss on the test set after the last epoch; lower is better.",
    }[metric]

    def text(row: _Row) -> str | None:
        qualities = [m.quality for m in row.measured if m.quality]
        finals = [quality.final for quality in qualities if quality.metric == metric]
        if not finals:
            return None
        if metric == "accuracy":
            return f"{spread_text(finals, lambda value: f'{100 * value:.1f}')} %"
        return spread_text(finals, three_digits)

    return _Column(Heading("measured", f"final {metric}", "", meaning), text)


def spread_text(values: Sequence[float], text: Callable[[float], str]) -> str:
    """Return mean and standard deviation of values, the latter if there are several."""
    mean = text(fmean(values))
    return f"{mean} ± {text(stdev(values))}" if len(values) > 1 else mean


def _prediction_columns(records: Sequence[Measurement], sizes: Sequence[int]) -> list[_Column]:
    ranks = f"{sizes[0]} ranks" if len(sizes) == 1 else "as run"
    columns = []
    for network in networks(records):
        largest = max(m.world_size for m in predicted(records) if m.network == network)
        columns += [_predicted_step_time(network, ranks), _predicted_speedup(network, largest)]
        if not measured(records):  # beside measurements the table is wide enough
            columns.append(_bound_by(network, largest))
    return columns


def _predicted_step_time(network: str, ranks: str) -> _Column:
    meaning = f"Simulated time of one training step on {network}."
    return _means(
        Heading(f"predicted {network}", "step time", ranks, meaning),
        lambda row: [m.step_time_s for m in row.on(network, row.world_size)],
        seconds_text,
        "lowest",
    )


def _predicted_speedup(network: str, world_size: int) -> _Column:
    meaning = (
        f"Simulated throughput on {network} over that of {ONE_DENSE_WORKER}; in brackets the same "
        "per worker, the scaling efficiency."
    )
    plain = _means(
        Heading(f"predicted {network}", "speed-up", f"{world_size} ranks", meaning),
        lambda row: [m.speedup for m in row.on(network, world_size)],
        times_text,
        "highest",
    )

    def text(row: _Row) -> str | None:
        speedup = plain.number(row)
        if speedup is None:
            return None
        efficiency = speedup / row.on(network, world_size)[0].num_workers
        return f"{times_text(speedup)} ({efficiency:.0%})"

    return plain._replace(text=text)


def _bound_by(network: str, world_size: int) -> _Column:
    def text(row: _Row) -> str | None:
        return next((m.bound_by for m in row.on(network, world_size) if m.bound_by), None)

    meaning = f"What a step on {network} cannot be faster than: a link, a processor, latency."
    return _Column(
        Heading(f"predicted {network}", "bound by", f"{world_size} ranks", meaning), text
    )


def _means(
    heading: Heading,
    numbers: Callable[[_Row], Sequence[float | None]],
    text: Callable[[float], str],
    best: Literal["lowest", "highest"] | None = None,
) -> _Column:
    """Return a column of means over a row's records, skipping records without a number."""

    def mean(row: _Row) -> float | None:
        known = [number for number in numbers(row) if number is not None]
        return fmean(known) if known else None

    def shown(row: _Row) -> str | None:
        number = mean(row)
        return None if number is None else text(number)

    return _Column(heading, shown, mean, best)


def _cells(column: _Column, rows: Sequence[_Row]) -> list[Cell]:
    texts = [column.text(row) or MISSING for row in rows]
    numbers = [column.number(row) for row in rows]
    known = [number for number in numbers if number is not None]
    if column.best is None or not known:
        return [Cell(text) for text in texts]
    best = min(known) if column.best == "lowest" else max(known)
    # Cells with the same text as the best are as good: further digits are noise.
    shown = texts[numbers.index(best)]
    everyone = all(text == shown for text in texts)
    return [Cell(text, text == shown and not everyone) for text in texts]
