"""Results, proofs and drawings, as commands show them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from dgc_topo.cli.console import console, print_raw
from dgc_topo.experiments.validation.records import ValidationRow, load_rows
from dgc_topo.records.records import SWEEP, VALIDATION
from dgc_topo.report.animation import animate
from dgc_topo.report.draw import draw_schedule
from dgc_topo.report.report import write_report
from dgc_topo.report.style import save_picture
from dgc_topo.report.summary import summarise
from dgc_topo.report.sweep.results import Sweep
from dgc_topo.report.sweep.swept import Swept
from dgc_topo.report.sweep.tables import best_table, markdown_text
from dgc_topo.report.table import markdown_table, rich_table
from dgc_topo.report.validation import (
    rows_table,
    summary_markdown,
    summary_table,
    write_validation_report,
)
from dgc_topo.schedule import Schedule
from dgc_topo.text import one_line, printable

if TYPE_CHECKING:
    from dgc_topo.proof import Proof
    from dgc_topo.records.folder import ResultsFolder


def print_findings(folder: ResultsFolder) -> None:
    """Write the report of *folder*; print its comparison, findings and the paths of its files."""
    write_report(folder)
    records = folder.measurements()
    comparison, lines = summarise(records, folder.known_scenario_text())
    console.print(rich_table(comparison, console.width))
    for line in lines:
        console.print(f"- {line}")
    console.print(f"records: {folder.measurements_path}", soft_wrap=True)
    console.print(f"report:  {folder.report_path}", soft_wrap=True)


def print_markdown(folder: ResultsFolder) -> None:
    """Print the comparison as GitHub-flavoured Markdown."""
    print_raw(markdown_table(summarise(folder.measurements())[0]))


def print_sweep(folder: Path) -> None:
    """Write the report of a sweep's folder; print its best ways, findings and paths."""
    found = Sweep.load(folder)
    report = found.report()
    best = best_table(Swept.of(found.to_frame()))
    table = Table(*best.head)
    for row in best.rows:
        table.add_row(*map(one_line, row))
    console.print(table)
    for line in found.findings():
        console.print(Text(f"- {printable(line)}"))
    console.print(f"records: {folder / SWEEP}", soft_wrap=True)
    console.print(f"report:  {report}", soft_wrap=True)


def print_sweep_markdown(folder: Path) -> None:
    """Print the best ways of a sweep as GitHub-flavoured Markdown."""
    print_raw(markdown_text(best_table(Swept.of(Sweep.load(folder).to_frame()))))


def print_rows(rows: Sequence[ValidationRow]) -> None:
    """Print the rows of a validation, and a summary of their errors."""
    console.print(rows_table(rows))
    console.print(summary_table(rows))


def print_validation(folder: Path) -> None:
    """Write the report of a validation's folder; print its rows, errors and paths."""
    report = write_validation_report(folder)
    print_rows(load_rows(folder))
    console.print(f"records: {folder / VALIDATION}", soft_wrap=True)
    console.print(f"report:  {report}", soft_wrap=True)


def print_validation_markdown(folder: Path) -> None:
    """Print the summary of a validation's errors as GitHub-flavoured Markdown."""
    print_raw(summary_markdown(load_rows(folder)))


def print_proof(proof: Proof) -> None:
    """Print what was proved, its cost beside the bounds, and the weights if it is small gossip."""
    console.print(
        Text(printable(proof.label), "bold") + Text(f" with {proof.world_size} ranks: proved")
    )
    console.print(f"  {proof.claim}", soft_wrap=True)
    table = Table("cost of one run", "this schedule", "lower bound", "bound")
    for row in proof.costs():
        table.add_row(*row)
    console.print(table)
    if weights := proof.weights():
        print_raw("weight that each rank (row) gives every rank's value\n")
        width = max(len(weight) for row in weights for weight in row)
        for rank, shares in enumerate(weights):
            print_raw(f"rank {rank:<4}" + "  ".join(each.rjust(width) for each in shares) + "\n")


def write_drawing(schedule: Schedule, label: str, path: Path) -> None:
    """Draw *schedule* into a file; the path's suffix decides the format, ``.html`` moves."""
    if path.suffix.lower() == ".html":
        animate(schedule, title=label).save(path)
        return
    save_picture(draw_schedule(schedule, title=label), path)
