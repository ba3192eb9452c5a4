"""`dgc-topo bench collectives`: all-reduces on real wires, ours beside torch's."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

from dgc_topo.cli.console import clear_errors, print_json, print_raw
from dgc_topo.cli.options import TOPOLOGY, each_once

if TYPE_CHECKING:
    from dgc_topo.experiments.bench.collectives import Row
    from dgc_topo.workers import Loopback
    from dgc_topo.workers.lab import Lab


def collectives(  # noqa: PLR0913 - one argument per option
    *,
    world_size: Annotated[
        list[int] | None, typer.Option("--world-size", "-n", help="ranks; repeatable (default: 4)")
    ] = None,
    sizes: Annotated[
        str, typer.Option(help="buffers: 1kB,1MB or 1kB:40MB (steps of a factor 10, and the last)")
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
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object per line")] = False,
) -> None:
    """Time our all-reduces beside torch's over Gloo, in turn, and check that the sums agree.

    For example:

    - dgc-topo bench collectives -n 4 --sizes 1kB:1MB --topology ring
    """
    from dgc_topo.experiments.bench.collectives import bench_collectives
    from dgc_topo.experiments.bench.plan import sizes_from
    from dgc_topo.units import seconds_from

    with clear_errors():
        ranks = sorted(each_once("--world-size", world_size or [4]))
        if ranks[0] < 2:  # noqa: PLR2004 - one rank alone moves nothing
            raise ValueError(f"--world-size {ranks[0]}: expected at least 2")
        named = each_once("--topology", topology or ())
        buffers, budget_s = sizes_from(sizes), seconds_from(budget, "--budget")
        with _hosts(max(ranks), rate, lab=lab) as hosts:
            rows = bench_collectives(hosts, ranks, buffers, named, budget_s)
            # Each world size as soon as it is done: what fails later takes nothing with it.
            for _, group in groupby(rows, key=lambda row: row.world_size):
                if not as_json:
                    _print_table(list(group), everything=everything)
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


def _print_table(rows: Sequence[Row], *, everything: bool) -> None:
    """Print lines as nccl-tests does, which no terminal or log file folds into pieces."""
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


def _numbers(row: Row) -> tuple[str, str, str]:
    algbw, busbw = row.algbw_bytes_per_s / 1e6, row.busbw_bytes_per_s / 1e6
    return f"{row.time_s * 1e3:.2f}", f"{algbw:.2f}", f"{busbw:.2f}"


def _ratios(row: Row, gloo: Row) -> tuple[str, str]:
    return f"{row.time_s / gloo.time_s:.2f}", f"{row.time_s / row.bound_s:.3f}"
