"""Command ``dgc-topo sweep``: all combinations of a scenario's [sweep]."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dgc_topo.cli.console import clear_errors, console, errors
from dgc_topo.cli.options import Output, ScenarioFile
from dgc_topo.cli.outputs import check_folder

if TYPE_CHECKING:
    from dgc_topo.cli.progress import SweepBar
    from dgc_topo.experiments.sweep import SweepRecords
    from dgc_topo.report.sweep.results import Sweep

_SHOWN = 5  # reasons

Processes = Annotated[
    int | None,
    typer.Option(help="worker processes, 0 for none (default: one per core)", min=0, max=1024),
]


def sweep(scenario: ScenarioFile, output: Output = None, processes: Processes = None) -> None:
    """Predict all combinations of lists and ranges that a scenario names, into one file.

    The scenario has a section [sweep].  An interrupted sweep continues where it stopped.

    For example:

    - dgc-topo sweep which-topology
    - dgc-topo sweep mine.toml -o results/second
    """
    from dgc_topo.cli.progress import SweepBar
    from dgc_topo.experiments.sweep.scenarios import sweep_scenario
    from dgc_topo.report.sweep.results import Sweep

    with clear_errors():
        check_folder("--output", output)
        bar = SweepBar(console)
        try:
            with bar:
                found = sweep_scenario(scenario, output, bar, processes)
        except BaseException:
            _say_how_to_go_on(bar)
            raise
        drawn = Sweep(found.rows, found.path)
        for line in (*(f"- {finding}" for finding in drawn.findings()), *_summary(found)):
            console.print(line, soft_wrap=True)
        if found.path is not None:
            _draw(drawn, found.path)


def _draw(drawn: Sweep, folder: Path) -> None:
    """Write the report, and say how to get it if that is interrupted."""
    errors.print("drawing the report ...", soft_wrap=True)
    try:
        console.print(f"report:  {drawn.report()}", soft_wrap=True)
    except BaseException:
        errors.print(
            f"all predictions are kept; dgc-topo report {folder} draws the report", soft_wrap=True
        )
        raise


def _say_how_to_go_on(bar: SweepBar) -> None:
    if bar.done:
        errors.print(
            f"{bar.done:,} of {bar.total:,} predictions are kept; the same command goes on there",
            soft_wrap=True,
        )


def _summary(found: SweepRecords) -> Iterator[str]:
    """Yield what there is, what was skipped and why, and where it is."""
    reasons = Counter(row.skipped for row in found.skipped)
    yield f"{len(found) - reasons.total():,} predictions, {reasons.total():,} skipped"
    for reason, count in reasons.most_common(_SHOWN):
        yield f"- skipped {count:,}: {reason}"
    if len(reasons) > _SHOWN:
        yield f"- and {len(reasons) - _SHOWN} more reasons, in column 'skipped'"
    if found.path is not None:
        from dgc_topo.records.records import SWEEP

        yield f"records: {Path(found.path) / SWEEP}"
