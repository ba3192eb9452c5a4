"""Tables, a picture and the report of a validation's results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from rich.table import Table

from dgc_topo.experiments.validation.records import (
    ErrorSummary,
    ValidationFolder,
    ValidationRow,
    load_rows,
    summarize,
)
from dgc_topo.files import write_whole
from dgc_topo.network.calibrated import CalibratedNetwork
from dgc_topo.records.room import NETWORK, PLOT, REPORT
from dgc_topo.report.agreement import agreement_figure, agreement_part, of_validation
from dgc_topo.report.pages import findings_by_kind, render
from dgc_topo.report.style import save_picture
from dgc_topo.text import markdown
from dgc_topo.units import bytes_text, rate_text, seconds_text

_TEMPLATE = "validation.html.j2"
_PERCENT = 100


def write_validation(
    folder: ValidationFolder, rows: Iterable[ValidationRow]
) -> list[ValidationRow]:
    """Write each row at once, then a picture and a report of all rows, and return the rows."""
    try:
        return folder.write(rows)
    finally:
        save_picture(error_figure(load_rows(folder.path)), folder.path / PLOT)
        write_validation_report(folder.path)


def write_validation_report(folder: Path) -> Path:
    """Write ``report.html`` into a validation's folder, over an earlier one, and return its path.

    Raises:
        OSError: if there are no rows, or the disk refuses.
        ResultsError: naming file and line of a row that is wrong.
        ValueError: if the folder's calibration is unreadable.
    """
    rows, network = load_rows(folder), folder / NETWORK
    part = agreement_part(of_validation(rows))
    page = render(
        _TEMPLATE,
        name=folder.resolve().name,
        origin=None,
        num_rows=len(rows),
        part=part,
        findings=findings_by_kind([part.summary] if part else []),
        summaries=[
            (summary.what, (str(summary.num_rows), *_percentages(summary)))
            for summary in summarize(rows)
        ],
        network=CalibratedNetwork.load(network) if network.is_file() else None,
    )
    write_whole(folder / REPORT, page)
    return folder / REPORT


def rows_table(rows: Sequence[ValidationRow]) -> Table:
    """Return every row: measured, predicted, signed error."""
    table = Table(
        "topology", "ranks", "links", "payload", "bytes", "measured", "predicted", "error"
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(
            row.name,
            str(row.world_size),
            rate_text(row.rate_bits_per_s),
            row.payload,
            bytes_text(row.num_bytes),
            seconds_text(row.measured_s),
            seconds_text(row.predicted_s),
            f"{_PERCENT * row.error:+.1f} %",
        )
    return table


def summary_table(rows: Sequence[ValidationRow]) -> Table:
    """Return absolute errors by group, rate and size."""
    table = Table("absolute error of", "rows", "median", "95th percentile", "worst")
    for column in table.columns[1:]:
        column.justify = "right"
    for summary in summarize(rows):
        table.add_row(summary.what, str(summary.num_rows), *_percentages(summary))
    return table


def summary_markdown(rows: Sequence[ValidationRow]) -> str:
    """Return the same as Markdown."""
    lines = [
        "| absolute error of | rows | median | 95th percentile | worst |",
        "| :--- | ---: | ---: | ---: | ---: |",
    ]
    for summary in summarize(rows):
        values = " | ".join(_percentages(summary))
        lines.append(f"| {markdown(summary.what)} | {summary.num_rows} | {values} |")
    return "\n".join(lines) + "\n"


def error_figure(rows: Sequence[ValidationRow] | Mapping[str, Sequence[ValidationRow]]) -> Figure:
    """Draw predicted over measured times, and errors, with the 90 % intervals of predictions.

    Args:
        rows: Rows to draw; each group and rate, or each name, has its own colour and marker.
    """
    if not isinstance(rows, Mapping):
        return agreement_figure(of_validation(rows))
    named = {name: of_validation(here) for name, here in rows.items()}
    return agreement_figure(
        [row._replace(series=name) for name, here in named.items() for row in here]
    )


def _percentages(summary: ErrorSummary) -> tuple[str, str, str]:
    values = (summary.median, summary.percentile_95, summary.worst)
    first, second, third = (f"{_PERCENT * value:.1f} %" for value in values)
    return first, second, third
