"""Command ``dgc-topo advise``: the ways to train a model on a network, and which to choose."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from dgc_topo.cli.console import clear_errors, console, errors, naming_options, print_json
from dgc_topo.cli.options import AsJson, NetworkName, fraction
from dgc_topo.cli.outputs import check_new_file

if TYPE_CHECKING:
    from dgc_topo.experiments.advice import Advice

#: Option of each of the library's arguments, for errors.
_OPTIONS = {
    "model and parameters": "MODEL and --parameters",
    "parameters": "--parameters",
    "hosts": "--hosts",
    "gpus_per_host": "--gpus-per-host",
    "step_time": "--step-time",
    "batch_size": "--batch",
    "compress": "--compress",
    "densities": "--density",
}


def advise(  # noqa: PLR0913 - one argument per option
    model: Annotated[
        str | None,
        typer.Argument(
            help="model of the zoo, such as resnet50, a results folder, or file.py:NAME, a model "
            "of your own (with --step-time)"
        ),
    ] = None,
    *,
    hosts: Annotated[int, typer.Option(help="number of machines", min=2)],
    gpus_per_host: Annotated[int, typer.Option(help="workers on each machine", min=1)] = 1,
    network: NetworkName = "1gbe",
    step_time: Annotated[
        str | None,
        typer.Option(help="forward and backward pass of one worker as you measured it: 180ms"),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="items per worker; the model's own by default", min=1)
    ] = None,
    parameters: Annotated[
        str | None, typer.Option(help="number of parameters instead of a model, such as 86M")
    ] = None,
    compress: Annotated[
        str | None,
        typer.Option(
            help="compressing per step as you measured it, such as 4ms; else as on an H100"
        ),
    ] = None,
    density: Annotated[
        list[float] | None,
        typer.Option(
            help="fraction for DGC to consider (repeatable; 1% and 0.1% by default)",
            parser=fraction,
            metavar="FRACTION",
        ),
    ] = None,
    no_overlap: Annotated[
        bool, typer.Option("--no-overlap", help="send after the backward pass, not during it")
    ] = False,
    every_way: Annotated[
        bool, typer.Option("--all", help="every topology, not only the fastest of each kind")
    ] = False,
    write: Annotated[
        Path | None, typer.Option(help="scenario file to write, which compares these ways")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say which way to train a model on a network, how fast it will be, and what else would help.

    For example:

    - dgc-topo advise resnet50 --hosts 8 --network 1gbe
    - dgc-topo advise --parameters 86M --step-time 180ms --hosts 4 --gpus-per-host 4
    - dgc-topo advise net.py:Net --step-time 0.1s --hosts 16 --network lab.toml
    """
    from dgc_topo.cli.progress import simulating
    from dgc_topo.experiments.advice import advise as find
    from dgc_topo.experiments.advice.as_scenario import scenario_text
    from dgc_topo.files import write_whole

    with clear_errors(), naming_options(_OPTIONS):
        check_new_file("--write", write)
        with simulating(errors):
            advice = find(
                model,
                hosts,
                parameters=parameters,
                gpus_per_host=gpus_per_host,
                network=network,
                step_time=step_time,
                batch_size=batch,
                compress=compress,
                densities=density or (0.01, 0.001),
                overlap=not no_overlap,
            )
        if write is not None:
            write_whole(write, scenario_text(advice, network, overlap=not no_overlap))
        if as_json:
            print_json(advice.as_dict())
        else:
            _print(advice, every_way=every_way)


def _print(advice: Advice, *, every_way: bool) -> None:
    from dgc_topo.experiments.advice.advice import HEAD, row_of

    table = Table(*HEAD)
    for way in advice.ways if every_way else advice.leading:
        table.add_row(*row_of(way))
    console.print(advice.verdict, soft_wrap=True)
    console.print(table)
    console.print("Predicted; what the numbers rest on:")
    for line in advice.assumptions:
        console.print(f"- {line}", soft_wrap=True)
