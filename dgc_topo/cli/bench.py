"""Command ``dgc-topo bench``: times all-reduces and training beside torch's own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from dgc_topo.cli.console import (
    HELP_MARKUP,
    clear_errors,
    console,
    errors,
    print_json,
    print_raw,
)
from dgc_topo.cli.options import TOPOLOGY, AsJsonRows, ScenarioFile, each_once
from dgc_topo.cli.progress import counting

if TYPE_CHECKING:
    from dgc_topo.experiments.bench.collectives import CollectiveRow
    from dgc_topo.experiments.bench.training import TrainingRow
    from dgc_topo.workers import Loopback
    from dgc_topo.workers.lab import Lab

bench = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=HELP_MARKUP,
    help="Measure all-reduces and training on real workers, beside torch's own.",
)


@bench.command()
def collectives(  # noqa: PLR0913 - one argument per option
    *,
    world_size: Annotated[
        list[int] | None, typer.Option("--world-size", "-n", help="ranks; repeatable (default: 4)")
    ] = None,
    sizes: Annotated[
        str,
        typer.Option(
            "--bytes",
            "--sizes",
            help="buffers: 1kB,1MB or 1kB:40MB (steps of a factor 10, and the last)",
        ),
    ] = "1kB:40MB",
    topology: Annotated[
        list[str] | None,
        typer.Option(help=f"{TOPOLOGY}; repeatable (default: all all-reduces)"),
    ] = None,
    lab: Annotated[
        bool, typer.Option("--lab", help="on hosts of their own in the lab, not on loopback")
    ] = False,
    rate: Annotated[
        str | None, typer.Option(help="of the lab's links, such as 100Mbit/s (default: unshaped)")
    ] = None,
    budget: Annotated[str, typer.Option(help="time for the rounds of one size")] = "5s",
    everything: Annotated[bool, typer.Option("--all", help="a row per topology")] = False,
    as_json: AsJsonRows = False,
) -> None:
    """Time our all-reduces beside torch's over Gloo, in turn, and check that the sums agree.

    For example:

    - dgc-topo bench collectives -n 4 --bytes 1kB:1MB --topology ring
    """
    from dgc_topo.experiments.bench.collectives import bench_collectives, sizes_from
    from dgc_topo.units import seconds_from

    with clear_errors():
        ranks = sorted(each_once("--world-size", world_size or [4]))
        if ranks[0] < 2:  # noqa: PLR2004 - one rank alone moves nothing
            raise ValueError(f"--world-size {ranks[0]}: expected at least 2")
        named = each_once("--topology", topology or ())
        buffers, budget_s = sizes_from(sizes), seconds_from(budget, "--budget")
        with _hosts(max(ranks), rate, lab=lab) as hosts:
            rows = bench_collectives(hosts, ranks, buffers, named, budget_s)
            # Print each world size at once, so that a later failure loses none of the results.
            for _, group in groupby(rows, key=lambda row: row.world_size):
                if not as_json:
                    _print_collectives(list(group), everything=everything)
                    continue
                for row in group:
                    print_json(row.as_json())


def _hosts(
    num_hosts: int, rate: str | None, *, lab: bool
) -> AbstractContextManager[Lab | Loopback]:
    from dgc_topo.units import link_rate_from
    from dgc_topo.workers import Loopback
    from dgc_topo.workers.lab import Lab, LabSpec

    if lab:
        shaped = None if rate is None else link_rate_from(rate, "--rate")
        return Lab(LabSpec(num_hosts=num_hosts, rate_bits_per_s=shaped))
    if rate is not None:
        raise ValueError(f"--rate {rate}: shapes the links of the lab, expected --lab as well")
    return Loopback()


_COLUMNS = "{:>10}  {:<32} {:>9} {:>8} {:>8}  | {:>9} {:>8} {:>8}  | {:>9} {:>10}"


def _print_collectives(rows: Sequence[CollectiveRow], *, everything: bool) -> None:
    """Print one line per result, as nccl-tests does; lines are never wrapped."""
    from dgc_topo.experiments.bench.collectives import best
    from dgc_topo.units import bytes_text

    first = rows[0]
    lines = [
        f"all-reduce of float32, {first.world_size} ranks, {first.network}; median over rounds of "
        f"the slowest rank's time; load {first.load:.1f}",
        _COLUMNS.format("", "ours", "", "", "", "gloo", "", "", "", ""),
        _COLUMNS.format(
            *("size", "topology", "time", "algbw", "busbw", "time", "algbw", "busbw"),
            *("ours/gloo", "ours/bound"),
        ),
        _COLUMNS.format("", "", *("ms", "MB/s", "MB/s") * 2, "", ""),
    ]
    for size, group in groupby(rows, key=lambda row: row.size_bytes):
        of_size = list(group)
        ours, gloo = best(of_size)
        shown = [row for row in of_size if row is not gloo] if everything else [ours]
        for row in sorted(shown, key=lambda row: row.time_s):
            numbers = (*_numbers(row), *_numbers(gloo), *_ratios(row, gloo))
            lines.append(_COLUMNS.format(bytes_text(size), row.way, *numbers))
    lines.append(
        "busbw = algbw * 2(p-1)/p; bound = 2(p-1)/p * size / goodput, at the "
        f"{first.goodput_bytes_per_s / 1e6:.2f} MB/s that one stream between two ranks got in "
        "this run"
    )
    print_raw("".join(f"{line.rstrip()}\n" for line in lines))


def _numbers(row: CollectiveRow) -> tuple[str, str, str]:
    algbw, busbw = row.algbw_bytes_per_s / 1e6, row.busbw_bytes_per_s / 1e6
    return f"{row.time_s * 1e3:.2f}", f"{algbw:.2f}", f"{busbw:.2f}"


def _ratios(row: CollectiveRow, gloo: CollectiveRow) -> tuple[str, str]:
    return f"{row.time_s / gloo.time_s:.2f}", f"{row.time_s / row.bound_s:.3f}"


@bench.command()
def training(
    scenario: ScenarioFile,
    *,
    as_json: AsJsonRows = False,
) -> None:
    """Time training over each topology, beside DDP, and say how it scales from one worker.

    The scenario has a section [throughput].

    For example:

    - dgc-topo bench training throughput-1gbe-scaled
    """
    from dgc_topo.experiments.bench.training import TrainingBench
    from dgc_topo.experiments.scenario import load_scenario

    with clear_errors():
        measurement = TrainingBench(load_scenario(scenario))
        for line in () if as_json else measurement.left_out:
            console.print(f"left out: {line}", soft_wrap=True)
        try:
            with counting(errors, "training", measurement.num_runs) as advance:
                measurement.run(advance)
        finally:  # a failure in a later round loses no complete round
            _print_training(measurement.rows, as_json=as_json)


def _print_training(rows: Sequence[TrainingRow], *, as_json: bool) -> None:
    if as_json:
        for row in rows:
            print_json(row.as_json())
        return
    for size in sorted({row.world_size for row in rows[1:]}):
        console.print(_training_table(rows[0], [row for row in rows[1:] if row.world_size == size]))


def _training_table(alone: TrainingRow, rows: Sequence[TrainingRow]) -> Table:
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
