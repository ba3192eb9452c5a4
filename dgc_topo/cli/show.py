"""Results on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from dgc_topo.cli.console import console, print_raw
from dgc_topo.experiments.scenario.simulate import claims_in
from dgc_topo.report.draw import draw_schedule
from dgc_topo.report.findings import check_claims
from dgc_topo.report.report import write_report
from dgc_topo.report.style import save_picture
from dgc_topo.report.summary import summarise
from dgc_topo.report.table import markdown_table, rich_table
from dgc_topo.schedule import Schedule
from dgc_topo.text import printable

if TYPE_CHECKING:
    from dgc_topo.proof import Verification
    from dgc_topo.records.folder import ResultsFolder


def print_findings(folder: ResultsFolder) -> None:
    """Write the report; print the comparison, what it says in words, and where everything is."""
    write_report(folder)
    records = folder.measurements()
    comparison, lines = summarise(records)
    console.print(rich_table(comparison, console.width))
    for line in lines:
        console.print(f"- {line}")
    for line in check_claims(claims_in(folder.known_scenario_text()), records):
        console.print(f"- {line}")
    console.print(f"records: {folder.measurements_path}", soft_wrap=True)
    console.print(f"report:  {folder.report_path}", soft_wrap=True)


def print_markdown(folder: ResultsFolder) -> None:
    """Print the comparison as GitHub-flavoured Markdown."""
    print_raw(markdown_table(summarise(folder.measurements())[0]))


def print_verification(label: str, world_size: int, proof: Verification) -> None:
    """Print what was proved and what it costs beside the bounds."""
    console.print(Text(printable(label), "bold") + Text(f" with {world_size} ranks: proved"))
    console.print(f"  {proof.claim}", soft_wrap=True)
    cost = proof.cost
    table = Table("cost of one run", "this schedule", "lower bound", "bound")
    table.add_row(
        "steps",
        str(cost.num_steps),
        str(proof.step_bound),
        f"with {cost.most_per_step} message(s) per rank and step",
    )
    table.add_row(
        "bytes sent by the busiest rank",
        f"{cost.buffers_sent:.4g} x buffer",
        f"{proof.bytes_bound:.4g} x buffer",
        "2(n-1)/n" if proof.goal == "all-reduce" else "one neighbour",
    )
    table.add_row("bytes received by the busiest rank", f"{cost.buffers_received:.4g} x buffer")
    table.add_row("messages of all ranks", str(cost.num_messages))
    console.print(table)


def write_drawing(schedule: Schedule, label: str, path: Path) -> None:
    """Draw *schedule* into a file; the suffix decides the format."""
    save_picture(draw_schedule(schedule, title=label), path)
