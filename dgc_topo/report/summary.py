"""Summary of records: a table, findings, and notes on assumptions and on what is counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dgc_topo.experiments.scenario.simulate import claims_in
from dgc_topo.records.configuration import Setting, predicted
from dgc_topo.records.measurement import ONE_DENSE_WORKER, Measurement
from dgc_topo.report.comparison import Comparison, compare
from dgc_topo.report.findings import check_claims, findings
from dgc_topo.report.ladder import compare_rungs, ladder_findings
from dgc_topo.units import seconds_text

_STEADY = (
    1.1  # relative difference of a lone worker's times for the same work that leads to a warning
)
FREE = "nothing: it is assumed to be free"


def is_ladder(records: Sequence[Measurement]) -> bool:
    """Return True if the records are those of a ladder."""
    return any(record.rung is not None for record in records)


def summarise(
    records: Sequence[Measurement], scenario_text: str = ""
) -> tuple[Comparison, list[str]]:
    """Return the table of a comparison or of a ladder, and its findings as sentences."""
    claims = check_claims(claims_in(scenario_text), records)
    if is_ladder(records):
        return compare_rungs(records), [*ladder_findings(records), *claims]
    notes = [*prediction_notes(predicted(records)), *ratio_notes(records)]
    return compare(records), [*findings(records), *notes, *claims]


def ratio_notes(records: Sequence[Measurement]) -> Iterator[str]:
    """Yield a sentence that defines compression ratios, if anything is sent sparse."""
    if any(record.sparse is not None for record in records):
        yield (
            "Compression ratios are of one worker's own gradient; sums of several workers hold "
            "more entries, so what a rank sends shrinks less."
        )


def prediction_notes(records: Sequence[Measurement]) -> Iterator[str]:
    """Yield the assumptions and limits of predicted records."""
    if not records:
        return
    compressed = [record for record in records if not record.is_dense]
    yield f"Predicted steps {'; '.join(_overlaps(records))}."
    if compressed:
        yield f"Predicted compressing costs {_compressing(compressed)}."
    if any(record.speedup is not None for record in records):
        yield f"Predicted speed-ups are relative to {ONE_DENSE_WORKER}."
    yield from _unsteady(records)
    if any(record.speedup is None for record in records):
        yield (
            "Predicted speed-ups are left out where a record does not say what a lone worker takes."
        )


def _unsteady(records: Sequence[Measurement]) -> Iterator[str]:
    """Yield a warning if a lone worker's time differs between runs of the same work."""
    times_s: dict[tuple[object, ...], set[float]] = {}
    for record in records:
        if (solo := record.solo_phases) is not None:
            group = *Setting.of(record).work, record.time_scale
            times_s.setdefault(group, set()).add(solo.compute_s + solo.update_s)
    for found in times_s.values():
        if max(found) > _STEADY * min(found):
            low, high = seconds_text(min(found)), seconds_text(max(found))
            yield (
                f"Predicted from runs that timed one worker at {low} to {high} for the same work: "
                "the machine was busy or unsteady. Rows that differ by less than that cannot be "
                "told apart."
            )


def _overlaps(records: Sequence[Measurement]) -> Iterator[str]:
    said = {
        True: "overlap: gradients travel while the backward pass goes on",
        False: "do not overlap: gradients travel after the backward pass",
        None: "of records without a word on it may overlap or not",
    }
    of_overlap: dict[bool | None, dict[str, None]] = {}
    for record in records:
        of_overlap.setdefault(record.overlap, {})[record.workload] = None
    for overlap, workloads in of_overlap.items():
        whose = f" ({', '.join(workloads)})" if len(of_overlap) > 1 else ""
        yield said[overlap] + whose


def _compressing(records: Sequence[Measurement]) -> str:
    """Yield the time of compressing and decompressing in a step, workload by workload."""
    of_workload: dict[str, set[float]] = {}
    for record in records:
        solo = record.solo_phases or record.phases
        of_workload.setdefault(record.workload, set()).add(solo.compress_s)
    if len(of_workload) == 1:
        [costs] = of_workload.values()
        return cost_text(costs)
    return "; ".join(f"{name}: {cost_text(costs)}" for name, costs in of_workload.items())


def cost_text(costs_s: set[float]) -> str:
    """Return the cost of compressing in a step, in words."""
    if max(costs_s) == 0:
        return FREE
    low, high = seconds_text(min(costs_s)), seconds_text(max(costs_s))
    return f"{low if low == high else f'{low} to {high}'} per step"
