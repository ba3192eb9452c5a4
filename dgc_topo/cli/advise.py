"""Command ``dgc-topo advise``: the ways to train a model on a network, and which to choose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from dgc_topo.cli.console import clear_errors, console, errors, naming_options, print_json
from dgc_topo.cli.options import AsJson, NetworkName, fraction, refuse_options
from dgc_topo.cli.outputs import check_new_file
from dgc_topo.workers.seat import was_launched

if TYPE_CHECKING:
    from dgc_topo.experiments.advice import Advice
    from dgc_topo.experiments.advice.sources import CostedWork
    from dgc_topo.experiments.calibration.probing import ProbedNetwork

#: Option of each of the library's arguments, for errors.
_OPTIONS = {
    "model and parameters": "MODEL and --parameters",
    "parameters": "--parameters",
    "hosts": "--hosts",
    "gpus_per_host": "--gpus-per-host",
    "step_time": "--step-time",
    "batch_size": "--batch-size",
    "measure": "--measure",
    "input": "--input",
    "compress": "--compress",
    "densities": "--density",
}


def advise(  # noqa: PLR0913 - one argument per option
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            help="model of the zoo, such as resnet50, a results folder, or file.py:NAME, a model "
            "of your own (with --step-time)"
        ),
    ] = None,
    *,
    hosts: Annotated[
        int | None,
        typer.Option(help="number of machines; with --probe, as many as are probed by default"),
    ] = None,
    gpus_per_host: Annotated[int, typer.Option(help="workers on each machine", min=1)] = 1,
    network: NetworkName = "1gbe",
    probe: Annotated[
        Path | None,
        typer.Option(
            help="network file to write: measure the network between the processes of a "
            "launcher, one on each of your machines, and advise for it"
        ),
    ] = None,
    step_time: Annotated[
        str | None,
        typer.Option(help="forward and backward pass of one worker as you measured it: 180ms"),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="run some steps of the model here and take their times"),
    ] = False,
    examples: Annotated[
        str | None,
        typer.Option(
            "--input",
            help="of your own model, with --measure: shape of an item, such as 3x224x224, or "
            "file.py:NAME, a function from a batch size to the input",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            "--batch",
            help="items per worker; the model's own by default, or 1 for a model of your own",
            min=1,
        ),
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
    timeout_s: Annotated[
        float,
        typer.Option(help="with --probe: seconds after which a silent process is an error", min=1),
    ] = 120,
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
    - torchrun ... -m dgc_topo advise gpt2-small --hosts 16 --probe ours.toml
    - dgc-topo advise net.py:Net --measure --input 3x224x224 --batch-size 32 --hosts 4
    """
    from dgc_topo.cli.progress import simulating
    from dgc_topo.experiments.advice import advice_for, work_of
    from dgc_topo.experiments.advice.as_scenario import scenario_text
    from dgc_topo.files import write_whole

    overlap = not no_overlap

    def work() -> CostedWork:
        return work_of(
            model,
            parameters=parameters,
            step_time=step_time,
            batch_size=batch_size,
            compress=compress,
            measure=measure,
            examples=examples,
        )

    with clear_errors(), naming_options(_OPTIONS):
        check_new_file("--write", write)
        probed: ProbedNetwork | None = None
        found: CostedWork | None
        if probe is None:
            refuse_options(context, lambda name: name == "timeout_s", "is for --probe")
            found = work()
        else:
            refuse_options(context, lambda name: name == "network", "is what --probe finds out")
            probed, found = _probed(probe, timeout_s, work)
            if probed is None or found is None:  # another rank than 0, which says it all
                return
            network, hosts = str(probe), hosts or len(probed.carriers)
        if hosts is None:
            raise ValueError("hosts: missing, expected the number of machines")
        with simulating(errors):
            advice = advice_for(
                found,
                hosts,
                network,
                gpus_per_host=gpus_per_host,
                densities=density or (0.01, 0.001),
                overlap=overlap,
            )
        if write is not None:
            write_whole(write, scenario_text(advice, network, overlap=overlap))
        if as_json:
            print_json(advice.as_dict() | ({"probe": probed.as_dict()} if probed else {}))
        else:
            _print(advice, probed.lines if probed else (), every_way=every_way)


def _probed(
    file: Path, timeout_s: float, work: Callable[[], CostedWork]
) -> tuple[ProbedNetwork, CostedWork] | tuple[None, None]:
    if not was_launched():
        raise ValueError(
            f"--probe {file}: expected a launcher with one process on each machine, such as: "
            "torchrun --nnodes 2 --nproc-per-node 1 --rdzv-backend c10d --rdzv-endpoint "
            "FIRST_MACHINE:29500 -m dgc_topo advise ..., on both"
        )
    from dgc_topo.cli.under_launcher import probe_as_rank

    return probe_as_rank(file, timeout_s, work)


def _print(advice: Advice, probed: Sequence[str], *, every_way: bool) -> None:
    from dgc_topo.experiments.advice.advice import HEAD, reference_row_of, row_of

    table = Table(*HEAD)
    for way in advice.ways if every_way else advice.leading:
        table.add_row(*row_of(way))
    for reference in advice.references:
        table.add_row(*reference_row_of(reference))
    for line in probed:
        console.print(f"Probed: {line}.", soft_wrap=True)
    for sentence in advice.sentences:
        console.print(sentence, soft_wrap=True, markup=False)
    console.print(table)
    console.print("Predicted; what the numbers rest on:")
    for line in advice.assumptions:
        console.print(f"- {line}", soft_wrap=True)
