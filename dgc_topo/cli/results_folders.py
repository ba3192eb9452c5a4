"""Commands ``dgc-topo results`` and ``dgc-topo report``: what results folders hold."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from dgc_topo.cli.console import HELP_MARKUP, clear_errors, console, print_json, print_raw
from dgc_topo.cli.options import AsJson
from dgc_topo.text import markdown, one_line, printable

if TYPE_CHECKING:
    from dgc_topo.report.results_diff import ResultsDiff

results = typer.Typer(
    help="Results folders: which there are, and what differs between two.",
    rich_markup_mode=HELP_MARKUP,
)


def report(
    folder: Annotated[Path, typer.Argument(help="results folder")],
    markdown: Annotated[
        bool, typer.Option("--markdown", help="print only a table to paste")
    ] = False,
) -> None:
    """Write a results folder's report again, and print its table.

    For example:

    - dgc-topo report results/quickstart --markdown
    """
    from dgc_topo.cli.show import (
        print_findings,
        print_markdown,
        print_sweep,
        print_sweep_markdown,
        print_validation,
        print_validation_markdown,
    )
    from dgc_topo.records.folder import ResultsFolder
    from dgc_topo.records.records import SWEEP, VALIDATION, ResultsError

    with clear_errors():
        if (folder / SWEEP).is_file():
            (print_sweep_markdown if markdown else print_sweep)(folder)
            return
        if (folder / VALIDATION).is_file():
            (print_validation_markdown if markdown else print_validation)(folder)
            return
        results = ResultsFolder(folder)
        if not results.measurements():
            raise ResultsError(
                f"{results.measurements_path}: no records, expected at least one; make some with: "
                "dgc-topo compare SCENARIO"
            )
        if markdown:
            print_markdown(results)
            return
        print_findings(results)


@results.command("list")
def list_folders(
    folder: Annotated[Path, typer.Argument(help="folder of results folders")] = Path("results"),
) -> None:
    """List the results folders inside a folder, the newest last."""
    from dgc_topo.records.records import ResultsError
    from dgc_topo.report.results import found_in

    with clear_errors():
        found = found_in(folder)
        if not found:
            raise ResultsError(
                f"{folder}: no results folder in it, expected at least one; make one with: "
                "dgc-topo compare SCENARIO"
            )
        table = Table("folder", "scenario", "begun (UTC)", "measured", "predicted")
        for each in found:
            begun = f"{each.begun:%Y-%m-%d %H:%M}" if each.begun else "-"
            counts = (str(each.num_measured), str(each.num_predicted))
            table.add_row(*map(one_line, (str(each.path), each.scenario, begun, *counts)))
        console.print(table)


@results.command()
def diff(
    before: Annotated[Path, typer.Argument(help="results folder, or a file of records")],
    after: Annotated[Path, typer.Argument(help="the results to compare with it")],
    every: Annotated[bool, typer.Option("--all", help="also what did not change")] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="print only a table to paste")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compare two results: numbers of the same runs and predictions, and the settings.

    For example:

    - dgc-topo results diff results/quickstart results/second
    """
    from dgc_topo.report.results import load_results
    from dgc_topo.report.results_diff import diff_results

    with clear_errors():
        if as_markdown and as_json:
            raise ValueError("--markdown and --json: expected one of them at most")
        found = diff_results(load_results(before), load_results(after))
        if as_json:
            print_json(_as_json(found), indent=2)
        elif as_markdown:
            print_raw(_as_markdown(found, every=every))
        else:
            _print(found, every=every)


def _print(found: ResultsDiff, *, every: bool) -> None:
    console.print(f"before: {printable(found.before)}", soft_wrap=True)
    console.print(f"after:  {printable(found.after)}", soft_wrap=True)
    rows = found.rows(every=every)
    numbers = tuple(dict.fromkeys(row[2] for row in rows))
    for place in dict.fromkeys(row[1] for row in rows):
        console.print(_table(place, numbers, [row for row in rows if row[1] == place]))
    for runs, which in ((found.only_before, "before"), (found.only_after, "after")):
        for run in runs:
            console.print(f"only {which}: {one_line(run)}", soft_wrap=True)
    for key, old, new in found.settings:
        console.print(f"setting {key}: {old} -> {new}", soft_wrap=True)
    console.print(Text(found.summary, "bold"))


def _table(
    place: str, numbers: tuple[str, ...], rows: list[tuple[str, str, str, str, str, str]]
) -> Table:
    """Return a table of one place: a row per run, a column per number."""
    title = Text(one_line(place), "bold")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("run")
    for number in numbers:
        table.add_column(number, justify="right", no_wrap=True)
    for run, alike in groupby(rows, key=lambda row: row[0]):
        texts = {row[2]: f"{row[3]} -> {row[4]}  {row[5]:>7}" for row in alike}
        table.add_row(one_line(run), *(texts.get(number, "") for number in numbers))
    return table


def _as_markdown(found: ResultsDiff, *, every: bool) -> str:
    lines = ["| run | place | number | before | after | change |", "|" + " --- |" * 6]
    lines += [f"| {' | '.join(map(markdown, row))} |" for row in found.rows(every=every)]
    return "\n".join(lines) + "\n"


def _as_json(found: ResultsDiff) -> dict[str, object]:
    return {
        "before": found.before,
        "after": found.after,
        "changes": found.to_frame().to_dict("records"),
        "only_before": list(found.only_before),
        "only_after": list(found.only_after),
        "settings": [{"key": k, "before": b, "after": a} for k, b, a in found.settings],
    }
