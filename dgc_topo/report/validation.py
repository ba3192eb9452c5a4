"""Tables and a plot of a validation's results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle

from matplotlib.figure import Figure
from rich.table import Table

from dgc_topo.experiments.validation.records import (
    ErrorSummary,
    ValidationFolder,
    ValidationRow,
    load_rows,
    summarize,
)
from dgc_topo.records.room import PLOT
from dgc_topo.report.style import FAINT, legend_name, new_figure, save_picture, style_axes
from dgc_topo.text import markdown
from dgc_topo.units import bytes_text, rate_text, seconds_text

_COLOURS = ("#3b6fb6", "#e07b39", "#4c9f70", "#8e5ea2")
_PERCENT = 100


def write_validation(
    folder: ValidationFolder, rows: Iterable[ValidationRow]
) -> list[ValidationRow]:
    """Write each row at once, then a plot of all rows, and return the rows."""
    try:
        return folder.write(rows)
    finally:
        save_picture(error_figure(load_rows(folder.path)), folder.path / PLOT)


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
    """Draw predicted over measured times, and the line on which they are equal.

    Args:
        rows: Rows to draw; each group and rate, or each name, has its own colour.
    """
    figure = new_figure(7, 6, "Predicted against measured")
    axes = figure.subplots()
    style_axes(axes, x="measured, ms", y="predicted, ms")
    named = rows if isinstance(rows, Mapping) else _by_link(rows)
    for (name, here), colour in zip(named.items(), cycle(_COLOURS), strict=False):
        axes.scatter(
            [1e3 * row.measured_s for row in here],
            [1e3 * row.predicted_s for row in here],
            s=14,
            color=colour,
            alpha=0.7,
            label=legend_name(name),
        )
    shown = [row for here in named.values() for row in here]
    times = [1e3 * time for row in shown for time in (row.measured_s, row.predicted_s)]
    ends = [min(times, default=1.0), max(times, default=2.0)]
    axes.plot(ends, ends, color=FAINT, lw=1, zorder=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for text in axes.legend(frameon=False, fontsize=9).get_texts():
        text.set_parse_math(False)
    return figure


def _by_link(rows: Sequence[ValidationRow]) -> dict[str, list[ValidationRow]]:
    found: dict[str, list[ValidationRow]] = {}
    for row in rows:
        found.setdefault(f"{row.group}, {rate_text(row.rate_bits_per_s)}", []).append(row)
    return found


def _percentages(summary: ErrorSummary) -> tuple[str, str, str]:
    values = (summary.median, summary.percentile_95, summary.worst)
    first, second, third = (f"{_PERCENT * value:.1f} %" for value in values)
    return first, second, third
