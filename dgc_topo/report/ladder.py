"""A ladder as a table: each rung's quality over seeds, against the baseline, and compression."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from dgc_topo.records.configuration import measured
from dgc_topo.records.measurement import Measurement
from dgc_topo.records.quality import Quality
from dgc_topo.report.comparison import MISSING, Cell, Comparison, Heading, spread_text
from dgc_topo.units import percent_text, three_digits, times_text


class Condition(NamedTuple):
    """Density and number of workers of a rung's runs."""

    density: float
    num_workers: int

    @property
    def label(self) -> str:
        """Such as ``0.1 %, 4 workers``."""
        return f"{percent_text(self.density)}, {self.num_workers} workers"


@dataclass(frozen=True, slots=True)
class Ladder:
    """The measured records of a ladder.

    The first rung that is dense is the baseline; it stands beside the others at every density.

    Attributes:
        records: Records, each with a rung.

    Raises:
        ValueError: if there are none.
    """

    records: tuple[Measurement, ...]

    @classmethod
    def of(cls, measurements: Iterable[Measurement]) -> Ladder:
        """Return the ladder in *measurements*."""
        return cls(tuple(m for m in measured(measurements) if m.rung is not None and m.quality))

    def __post_init__(self) -> None:
        if not self.records:
            raise ValueError("ladder: no records of rungs, expected those of a [ladder] scenario")

    @property
    def rungs(self) -> list[str]:
        """Names of the rungs, in order of appearance."""
        return list(dict.fromkeys(str(record.rung) for record in self.records))

    @property
    def baseline(self) -> str | None:
        """The first dense rung, if there is one."""
        dense = (str(record.rung) for record in self.records if record.is_dense)
        return next(dense, None)

    @property
    def metric(self) -> str:
        """Name of the quality that is measured: accuracy, perplexity or loss."""
        return _quality(self.records[0]).metric

    @property
    def conditions(self) -> list[Condition]:
        """Densities (falling) and numbers of workers (rising) that rungs were compared under."""
        compressed = [r for r in self.records if r.rung != self.baseline] or list(self.records)
        found = {Condition(record.density, record.num_workers) for record in compressed}
        return sorted(found, key=lambda each: (-each.density, each.num_workers))

    def runs(self, rung: str, condition: Condition) -> list[Measurement]:
        """Return a rung's records under a condition, one per seed; the baseline's at any density.

        They come in the order of their seeds.
        """
        found = [
            record
            for record in self.records
            if record.rung == rung
            and record.num_workers == condition.num_workers
            and (rung == self.baseline or record.density == condition.density)
        ]
        return sorted(found, key=lambda record: record.seed)

    def ended(self, rung: str, condition: Condition) -> list[Measurement]:
        """Return the `runs` that did not diverge and have a final quality."""
        return [run for run in self.runs(rung, condition) if not _diverged(run)]

    def differences(self, rung: str, condition: Condition) -> list[float]:
        """Return a rung's final quality minus the baseline's, for every seed that both ended."""
        if self.baseline is None or rung == self.baseline:
            return []
        base = {r.seed: _quality(r).final for r in self.ended(self.baseline, condition)}
        pairs = ((_quality(r).final, base.get(r.seed)) for r in self.ended(rung, condition))
        return [final - other for final, other in pairs if other is not None]


def compare_rungs(measurements: Iterable[Measurement]) -> Comparison:
    """Return one row per rung, two columns per condition, one per density for the compression.

    Raises:
        ValueError: if no record has a rung.
    """
    ladder = Ladder.of(measurements)
    headings = [Heading("", "Rung", "", "What was added to the rung above.")]
    columns = [[Cell(rung) for rung in ladder.rungs]]
    for condition in ladder.conditions:
        headings += _headings(ladder, condition)
        columns.append([Cell(_quality_text(ladder, rung, condition)) for rung in ladder.rungs])
        columns.append([Cell(_difference_text(ladder, rung, condition)) for rung in ladder.rungs])
    for density in dict.fromkeys(condition.density for condition in ladder.conditions):
        meaning = "Dense bytes of one worker's gradient over its encoded bytes, indices included."
        headings.append(Heading("measured", "compression", percent_text(density), meaning))
        columns.append([Cell(_ratio_text(ladder, rung, density)) for rung in ladder.rungs])
    return Comparison(tuple(headings), tuple(zip(*columns, strict=True)))


def ladder_findings(measurements: Iterable[Measurement]) -> Iterator[str]:
    """Yield a sentence per condition: is the last rung as good as the baseline?

    Raises:
        ValueError: if no record has a rung.
    """
    ladder = Ladder.of(measurements)
    last, baseline = ladder.rungs[-1], ladder.baseline
    if baseline is None or last == baseline:
        return
    for condition in ladder.conditions:
        finals = [_quality(record).final for record in ladder.ended(last, condition)]
        dense = [_quality(record).final for record in ladder.ended(baseline, condition)]
        if not finals or not dense:
            continue  # the table shows the diverged seeds
        worst = min(dense) if ladder.metric == "accuracy" else max(dense)
        as_good = _no_worse(fmean(finals), worst, ladder.metric)
        verdict = "no worse than" if as_good else "worse than"
        yield (
            f"Measured: {last} at {condition.label} ends with {ladder.metric} "
            f"{_quality_text(ladder, last, condition)}; its mean is {verdict} the worst of "
            f"{len(dense)} seeds of {baseline}, {_value_text(worst, ladder.metric)} "
            f"(mean {_value_text(fmean(dense), ladder.metric)})."
        )


def _headings(ladder: Ladder, condition: Condition) -> list[Heading]:
    metric = ladder.metric
    better = "higher" if metric == "accuracy" else "lower"
    meaning = f"Test {metric} at the end, mean and standard deviation over seeds; {better} is "
    return [
        Heading("measured", metric, condition.label, meaning + "better."),
        Heading(
            "measured",
            f"against {ladder.baseline}",
            condition.label,
            f"Difference of {metric} from {ladder.baseline} with the same seed, likewise.",
        ),
    ]


def _quality_text(ladder: Ladder, rung: str, condition: Condition) -> str:
    runs = ladder.runs(rung, condition)
    if not runs:
        return MISSING
    finals = [_quality(record).final for record in ladder.ended(rung, condition)]
    diverged = len(runs) - len(finals)
    if not finals:
        return "diverged"
    text = _spread_text(finals, ladder.metric)
    return f"{text} ({diverged} of {len(runs)} diverged)" if diverged else text


def _difference_text(ladder: Ladder, rung: str, condition: Condition) -> str:
    found = ladder.differences(rung, condition)
    if not found:
        return MISSING
    text = _spread_text(found, ladder.metric)
    return text if text.startswith("-") else f"+{text}"


def _ratio_text(ladder: Ladder, rung: str, density: float) -> str:
    ratios = [
        record.compression_ratio
        for record in ladder.records
        if record.rung == rung
        and (rung == ladder.baseline or record.density == density)
        and record.diverged_at_step is None  # perhaps in the warm-up
    ]
    return times_text(fmean(ratios)) if ratios else MISSING


def _spread_text(values: Sequence[float], metric: str) -> str:
    if metric == "accuracy":
        return f"{spread_text(values, lambda value: f'{100 * value:.2f}')} %"
    return spread_text(values, lambda value: f"{value:.3f}")


def _value_text(value: float, metric: str) -> str:
    return f"{100 * value:.2f} %" if metric == "accuracy" else three_digits(value)


def _no_worse(value: float, bound: float, metric: str) -> bool:
    return value >= bound if metric == "accuracy" else value <= bound


def _diverged(record: Measurement) -> bool:
    return record.diverged_at_step is not None or not math.isfinite(_quality(record).final)


def _quality(record: Measurement) -> Quality:
    assert record.quality is not None  # Ladder.of keeps no others
    return record.quality
