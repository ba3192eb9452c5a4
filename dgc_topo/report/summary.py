"""What to show of a results folder: a comparison of topologies, or of the rungs of a ladder."""

from __future__ import annotations

from collections.abc import Sequence

from dgc_topo.records.configuration import predicted
from dgc_topo.records.measurement import Measurement
from dgc_topo.report.comparison import Comparison, compare
from dgc_topo.report.findings import findings
from dgc_topo.report.ladder import compare_rungs, ladder_findings
from dgc_topo.report.notes import prediction_notes, ratio_notes


def is_ladder(records: Sequence[Measurement]) -> bool:
    """Return whether the records are those of a ladder."""
    return any(record.rung is not None for record in records)


def summarise(records: Sequence[Measurement]) -> tuple[Comparison, list[str]]:
    """Return the table, and what it says in sentences."""
    if is_ladder(records):
        return compare_rungs(records), list(ladder_findings(records))
    notes = [*prediction_notes(predicted(records)), *ratio_notes(records)]
    return compare(records), [*findings(records), *notes]
