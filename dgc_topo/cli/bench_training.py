"""`dgc-topo bench training`: throughput over each topology, beside DDP and one worker alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from dgc_topo.cli.console import clear_errors, console, print_json
from dgc_topo.cli.options import ScenarioFile
from dgc_topo.cli.progress import counting

if TYPE_CHECKING:
    from dgc_topo.experiments.bench.training import TrainingRow


def training(
    scenario: ScenarioFile,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object per row")] = False,
) -> None:
    """Time training over each topology, beside DDP, and say how it scales from one worker.

    The scenario has a section [throughput].

    For example:

    - dgc-topo bench training throughput-1gbe-scaled
    """
    from dgc_topo.experiments.bench.training import TrainingBench
    from dgc_topo.experiments.scenario import load_scenario

    with clear_errors():
        bench = TrainingBench(load_scenario(scenario))
        for line in () if as_json else bench.left_out:
            console.print(f"left out: {line}", soft_wrap=True)
        try:
            with counting(console, "training", bench.num_runs) as advance:
                bench.run(advance)
        finally:  # what fails in a later round does not take the whole ones with it
            _print(bench.rows, as_json=as_json)


def _print(rows: Sequence[TrainingRow], *, as_json: bool) -> None:
    if as_json:
        for row in rows:
            print_json(row.as_json())
        return
    for size in sorted({row.world_size for row in rows[1:]}):
        console.print(_table(rows[0], [row for row in rows[1:] if row.world_size == size]))


def _table(alone: TrainingRow, rows: Sequence[TrainingRow]) -> Table:
    from dgc_topo.units import bytes_text, percent_text, seconds_text

    first = rows[0]
    title = (
        f"{first.workload}, {first.world_size} workers of batch {first.batch_size_per_worker}, "
        f"{first.network}; median of {first.rounds} rounds, load {first.load:.1f}"
    )
    table = Table("way", title=title)
    for heading in ("step", "samples/s", "efficiency", "sent per step", "spread"):
        table.add_column(heading, justify="right")
    for row in (alone, *rows):
        table.add_row(
            row.label,
            seconds_text(row.step_time_s),
            f"{row.samples_per_s:,.4g}",
            percent_text(row.scaling_efficiency),
            bytes_text(row.wire_bytes_per_step),
            percent_text(row.spread),
        )
    return table
