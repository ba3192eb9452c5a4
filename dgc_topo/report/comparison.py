"""The comparison as rows of text: one row per configuration, measured and predicted apart.

Whoever draws it (terminal, Markdown, HTML) draws these rows and headings.
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
from dgc_topo.records.measurement import ONE_DENSE_WORKER, Measurement, Quality
from dgc_topo.units import bytes_text, seconds_text, three_digits, times_text

MISSING = "-"


class Heading(NamedTuple):
    """Heading of a column.

    Attributes:
        group: "" for what names the row, "measured" or "predicted NETWORK".
        name: What the column shows.
        detail: Such as "4 ranks".
        meaning: One sentence for the report.
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
    """Headings and rows; every row has one cell per heading."""

    headings: tuple[Heading, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, slots=True)
class _Row:
    """One configuration at one world size.

    Attributes:
        configuration: What was chosen.
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
        """Measured records, or else those predicted at this size."""
        here = (m for m in self.predicted if m.world_size == self.world_size)
        return self.measured or tuple(here)

    @property
    def first(self) -> Measurement:
        """One of its records; all say the same of what a worker does."""
        return (*self.measured, *self.predicted)[0]

    @property
    def num_seeds(self) -> int:
        """Number of seeds that it is the mean of."""
        return len({record.seed for record in (*self.measured, *self.predicted)})

    def on(self, network: str, world_size: int) -> tuple[Measurement, ...]:
        """Return the predictions for a network and a world size, one per seed."""
        wanted = (network, world_size)
        return tuple(m for m in self.predicted if (m.network, m.world_size) == wanted)


class _Column(NamedTuple):
    heading: Heading
    value: Callable[[_Row], float | None]
    text: Callable[[_Row, float], str]
    best: Literal["lowest", "highest"] | None = None


def compare(measurements: Iterable[Measurement]) -> Comparison:
    """Return the comparison of all configurations, in the order of the records.

    Records of one configuration and world size that differ in nothing but their seed become one row
    of means, which says of how many seeds; all others have rows of their own.
    """
    records = list(measurements)
    rows = _rows_of(records)
    sizes = sorted({row.world_size for row in rows})
    columns = [
        *_run_columns(records, f"{sizes[0]} ranks" if len(sizes) == 1 else "", rows),
        *_prediction_columns(records, sizes),
    ]
    names = _name_columns(rows, sizes)
    columns += _seed_columns(rows)
    headings = (*(heading for heading, _ in names), *(column.heading for column in columns))
    cells = [_cells(column, rows) for column in columns]
    texts = [[Cell(text(row)) for row in rows] for _, text in names]
    return Comparison(headings, tuple(zip(*texts, *cells, strict=True)))


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


def _name_columns(
    rows: Sequence[_Row], sizes: Sequence[int]
) -> list[tuple[Heading, Callable[[_Row], str]]]:
    columns: list[tuple[Heading, Callable[[_Row], str]]] = [
        (
            Heading("", "Topology", "", "Communication pattern, with the options that were set."),
            lambda row: row.configuration.topology_label,
        ),
        (
            Heading(
                "",
                "Density",
                "",
                "Fraction of gradient elements that a worker sends in a step, once the warm-up is "
                "over; dense sends all of them uncompressed.",
            ),
            lambda row: row.configuration.density_label,
        ),
    ]
    if len({row.configuration.workload for row in rows}) > 1:
        workload = Heading("", "Workload", "", "Model and data set.")
        columns.insert(0, (workload, lambda row: row.configuration.workload))
    if len({row.first.scenario for row in rows}) > 1:
        scenario = Heading("", "Scenario", "", "What the records are of.")
        columns.insert(0, (scenario, lambda row: row.first.scenario))
    if _differ(rows, lambda row: row.first.batch_size_per_worker):
        batch = Heading("", "Batch", "", "Images, or streams of text, per worker and step.")
        columns.append((batch, lambda row: str(row.first.batch_size_per_worker)))
    if _differ(rows, lambda row: row.first.gradient_bytes):
        gradient = Heading("", "Gradient", "", "Dense bytes of one worker's gradient.")
        columns.append((gradient, lambda row: bytes_text(row.first.gradient_bytes)))
    if len(sizes) > 1:
        ranks = Heading("", "Ranks", "", "Processes of the run, servers included.")
        columns.append((ranks, lambda row: str(row.world_size)))
    return columns


def _differ(rows: Sequence[_Row], value: Callable[[_Row], object]) -> bool:
    """Return True if rows of one workload and topology differ in a value."""
    found: dict[tuple[str, str], set[object]] = {}
    for row in rows:
        name = row.configuration.workload, row.first.topology
        found.setdefault(name, set()).add(value(row))
    return any(len(values) > 1 for values in found.values())


def _seed_columns(rows: Sequence[_Row]) -> list[_Column]:
    """Return the column that says how many runs a row is the mean of, if any is one."""
    if all(row.num_seeds == 1 for row in rows):
        return []
    meaning = "Runs behind a row's means, which differ in nothing but their seed."
    return [
        _Column(
            Heading("", "Seeds", "", meaning),
            lambda row: row.num_seeds,
            lambda _, value: f"{value:.0f}",
        )
    ]


def _run_columns(records: Sequence[Measurement], ranks: str, rows: Sequence[_Row]) -> list[_Column]:
    ran = bool(measured(records))
    group = "measured" if ran else "predicted"
    columns = [
        _Column(
            Heading(
                group,
                "wire bytes per step",
                ranks,
                "Bytes that the busiest rank sends in one training step, after the warm-up.",
            ),
            lambda row: _mean(m.wire_bytes_per_step for m in row.records),
            lambda _, value: bytes_text(value),
        ),
        _Column(
            Heading(
                group,
                "compression ratio",
                "own gradient",
                "Dense bytes of one worker's own gradient over its encoded bytes, indices "
                "included; sums of several workers hold more entries, so wire bytes shrink less.",
            ),
            lambda row: _mean(m.compression_ratio for m in row.records),
            lambda _, value: times_text(value),
        ),
    ]
    if ran:
        columns = [*_quality_columns(rows), *columns, _step_time_here(ranks)]
    return columns


def _quality_columns(rows: Sequence[_Row]) -> list[_Column]:
    metrics = dict.fromkeys(m.quality.metric for row in rows for m in row.measured if m.quality)
    meaning = {
        "accuracy": "Fraction of the test set classified correctly after the last epoch; "
        "higher is better.",
        "perplexity": "Perplexity on the test set after the last epoch; lower is better.",
    }
    return [_quality_column(metric, meaning[metric]) for metric in metrics]


def _quality_column(metric: str, meaning: str) -> _Column:
    def qualities(row: _Row) -> list[Quality]:
        return [m.quality for m in row.measured if m.quality and m.quality.metric == metric]

    def text(row: _Row, value: float) -> str:
        finals = [quality.final for quality in qualities(row)]
        spread = stdev(finals) if len(finals) > 1 else None
        if metric == "accuracy":
            shown = f"{100 * value:.1f}"
            return f"{shown} %" if spread is None else f"{shown} ± {100 * spread:.1f} %"
        shown = three_digits(value)
        return shown if spread is None else f"{shown} ± {three_digits(spread)}"

    return _Column(
        Heading("measured", f"final {metric}", "", meaning),
        lambda row: _mean(quality.final for quality in qualities(row)),
        text,
    )


def _step_time_here(ranks: str) -> _Column:
    return _Column(
        Heading(
            "measured",
            "step time here",
            ranks,
            "Median time of one training step on this machine, whose processes share its cores: "
            "compare rows with it, not networks.",
        ),
        lambda row: _mean(m.step_time_s for m in row.measured if m.workers == "processes"),
        lambda _, value: seconds_text(value),
        "lowest",
    )


def _prediction_columns(records: Sequence[Measurement], sizes: Sequence[int]) -> list[_Column]:
    ranks = f"{sizes[0]} ranks" if len(sizes) == 1 else "as run"
    columns = []
    for network in networks(records):
        largest = max(m.world_size for m in predicted(records) if m.network == network)
        columns += [
            _predicted_step_time(network, ranks),
            _predicted_speedup(network, largest),
        ]
        if not measured(records):  # beside measurements the table is wide enough
            columns.append(_bound_by(network, largest))
    return columns


def _predicted_step_time(network: str, ranks: str) -> _Column:
    meaning = f"Simulated time of one training step on {network}."
    return _Column(
        Heading(f"predicted {network}", "step time", ranks, meaning),
        lambda row: _mean(m.step_time_s for m in row.on(network, row.world_size)),
        lambda _, seconds: seconds_text(seconds),
        "lowest",
    )


def _predicted_speedup(network: str, world_size: int) -> _Column:
    def text(row: _Row, speedup: float) -> str:
        return f"{times_text(speedup)} ({speedup / row.on(network, world_size)[0].num_workers:.0%})"

    meaning = (
        f"Simulated throughput on {network} over that of {ONE_DENSE_WORKER}; in brackets the same "
        "per worker, the scaling efficiency."
    )
    return _Column(
        Heading(f"predicted {network}", "speed-up", f"{world_size} ranks", meaning),
        lambda row: _mean(m.speedup for m in row.on(network, world_size) if m.speedup is not None),
        text,
        "highest",
    )


def _bound_by(network: str, world_size: int) -> _Column:
    def of(row: _Row) -> list[str]:
        return [m.bound_by for m in row.on(network, world_size) if m.bound_by]

    meaning = f"What a step on {network} cannot be faster than: a link, a processor, latency."
    return _Column(
        Heading(f"predicted {network}", "bound by", f"{world_size} ranks", meaning),
        lambda row: float(len(of(row))) if of(row) else None,
        lambda row, _: of(row)[0],
    )


def _cells(column: _Column, rows: Sequence[_Row]) -> list[Cell]:
    values = [column.value(row) for row in rows]
    texts = [
        MISSING if value is None else column.text(row, value)
        for row, value in zip(rows, values, strict=True)
    ]
    known = [value for value in values if value is not None]
    if column.best is None or not known:
        return [Cell(text) for text in texts]
    best = min(known) if column.best == "lowest" else max(known)
    # What reads the same as the best is as good: the digits left out are noise.
    shown = texts[values.index(best)]
    everyone = all(text == shown for text in texts)
    return [Cell(text, text == shown and not everyone) for text in texts]


def _mean(values: Iterable[float]) -> float | None:
    known = list(values)
    return fmean(known) if known else None
