"""Commands ``dgc-topo verify`` and ``dgc-topo show``: one schedule, proved or drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dgc_topo.cli.console import about, clear_errors, console, print_raw, topology_from
from dgc_topo.cli.options import TOPOLOGY, Options, Seed, WorldSize
from dgc_topo.cli.outputs import check_picture

TopologyName = Annotated[str, typer.Argument(help=TOPOLOGY)]


def verify(
    name: TopologyName, world_size: WorldSize, option: Options = None, seed: Seed = 0
) -> None:
    """Prove that a topology computes what it promises, and count what it costs.

    For example:

    - dgc-topo verify butterfly -n 8 --option order=far
    - dgc-topo verify mine.py -n 5
    """
    from dgc_topo.cli.show import print_proof
    from dgc_topo.proof import prove

    with clear_errors(), about(name):
        topology = topology_from(name, option or [])
        print_proof(prove(topology, world_size, seed=seed))


def show(
    name: TopologyName,
    world_size: WorldSize,
    option: Options = None,
    iteration: Annotated[int, typer.Option(help="for topologies that change", min=0)] = 0,
    seed: Seed = 0,
    plot: Annotated[
        Path | None, typer.Option(help="draw it into this file instead; an .html file moves")
    ] = None,
    grid: Annotated[bool, typer.Option("--grid", help="a row per step, a column per rank")] = False,
) -> None:
    """Print a schedule in its text form, as a grid, or draw it, also step by step.

    For example:

    - dgc-topo show ring -n 4 --grid
    - dgc-topo show butterfly -n 8 --plot butterfly.html
    - dgc-topo show mine.py -n 8 --plot mine.svg
    """
    from dgc_topo.cli.show import write_drawing
    from dgc_topo.schedule.text import format_schedule

    with clear_errors(), about(name):
        check_picture("--plot", plot, ".html")
        if plot is not None and grid:
            raise ValueError("--plot and --grid: expected one of them at most")
        topology = topology_from(name, option or [])
        schedule = topology.schedule(world_size, iteration=iteration, seed=seed)
        if plot is not None:
            write_drawing(schedule, topology.label, plot)
            console.print(f"drawn: {plot}")
        elif grid:
            print_raw(f"{schedule.grid()}\n")
        else:
            print_raw(format_schedule(schedule))
