"""Command ``dgc-topo step``: one simulated training step, on the terminal and in files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from dgc_topo.cli.console import (
    about,
    clear_errors,
    console,
    errors,
    naming_options,
    print_json,
    topology_from,
)
from dgc_topo.cli.options import (
    TOPOLOGY,
    AsJson,
    BalanceOption,
    Bandwidth,
    Fraction,
    Latency,
    MergeOption,
    NetworkName,
    Options,
    Seed,
    WorldSize,
    check_seed,
    cluster_from,
)
from dgc_topo.cli.outputs import check_file, check_picture
from dgc_topo.sizes import is_sparse
from dgc_topo.units import seconds_from

if TYPE_CHECKING:
    from dgc_topo.simulation.training import StepSimulation

#: Option of each of the library's arguments, for errors.
_OPTIONS = {
    "density": "--density",
    "merge": "--merge",
    "balance": "--balance",
    "compute_s": "--compute",
    "batch_size": "--batch",
    "jitter": "--jitter",
    "every": "--every",
    "averaging": "--averaging",
    "sends": "--sends",
}


def step(  # noqa: PLR0913 - one argument per option
    model: Annotated[
        str,
        typer.Argument(
            help="model of the zoo, such as resnet50, a results folder, or file.py:NAME, a model "
            "of your own (with --compute)"
        ),
    ],
    *,
    world_size: WorldSize,
    topology: Annotated[str, typer.Option(help=TOPOLOGY)] = "ring",
    option: Options = None,
    network: NetworkName = "1gbe",
    bandwidth: Bandwidth = None,
    latency: Latency = None,
    density: Fraction = 1.0,
    merge: MergeOption = "union",
    balance: BalanceOption = False,
    compute: Annotated[
        str | None, typer.Option(help="forward and backward pass as you measured it, such as 0.21s")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="items per worker; the model's own by default", min=1)
    ] = None,
    compress: Annotated[
        str | None,
        typer.Option(help="compressing per exchange as you measured it, such as 4ms; else free"),
    ] = None,
    every: Annotated[
        int, typer.Option(help="local steps per exchange; times and bytes are per step", min=1)
    ] = 1,
    sends: Annotated[
        str | None,
        typer.Option(help="gradients, parameters (gossip's default) or changes (with --every)"),
    ] = None,
    averaging: Annotated[
        str | None,
        typer.Option(help="averaging rule such as diloco:every=50, instead of --every and --sends"),
    ] = None,
    overlap: Annotated[bool, typer.Option("--overlap", help="send while computing")] = False,
    jitter: Annotated[float, typer.Option(help="relative spread of compute times")] = 0.0,
    seed: Seed = 0,
    trace: Annotated[Path | None, typer.Option(help="Chrome trace (JSON) to write")] = None,
    plot: Annotated[Path | None, typer.Option(help="picture to write, such as step.svg")] = None,
    as_json: AsJson = False,
) -> None:
    """Simulate one training step of a model; print where its time goes and what limits it.

    For example:

    - dgc-topo step resnet50 -n 16 --network 1gbe --density 0.001
    - dgc-topo step resnet50 -n 16 --compute 0.21s --batch 64
    - dgc-topo step net.py:Net -n 16 --compute 0.1s

    - dgc-topo step vgg16 -n 8 --overlap --plot step.svg
    - dgc-topo step gpt2-medium -n 8 --network 1gbe --every 50
    - dgc-topo step resnet50 -n 8 --topology gossip --averaging d-psgd:every=5
    """
    from dgc_topo.averaging import load_averaging
    from dgc_topo.cli.progress import simulating
    from dgc_topo.simulation.training import simulate_step
    from dgc_topo.simulation.workload_sources import load_workload

    with clear_errors(), naming_options(_OPTIONS), about(topology):
        check_file("--trace", trace)
        check_picture("--plot", plot)
        chosen = topology_from(topology, option or [])
        rule = None if averaging is None else load_averaging(averaging)
        leaves_out = rule is not None and rule.leaves_out
        draws = jitter > 0 or (rule is not None and rule.participation < 1)
        check_seed(seed, chosen, draws=draws)
        chosen.schedule(world_size)  # refuse a topology that cannot run before any other work
        with simulating(errors):
            simulation = simulate_step(
                load_workload(model, compute_s=compute, batch_size=batch),
                chosen,
                cluster_from(network, world_size, bandwidth, latency),
                density=density,
                merge=merge,
                balance=balance,
                every=every,
                sends=sends,  # type: ignore[arg-type]  # which refuses what is none
                averaging=rule,
                codec=None if compress is None else seconds_from(compress, "--compress"),
                overlap=overlap,
                jitter=jitter,
                seed=seed,
                num_steps=None if leaves_out else 1,
            )
        _write_files(simulation, trace, plot)
        if as_json:
            print_json(simulation.as_dict())
        else:
            _print_table(simulation)


def _write_files(simulation: StepSimulation, trace: Path | None, plot: Path | None) -> None:
    """Write a trace and a plot; they show the first 64 ranks if there are more."""
    from dgc_topo.simulation.training.trace import MAX_RANKS, write_chrome_trace

    run, ranks = simulation.runs[0], range(min(simulation.world_size, MAX_RANKS))
    if trace is not None:
        write_chrome_trace(run, trace, ranks)
    if plot is not None:
        from dgc_topo.report.draw import step_figure
        from dgc_topo.report.style import save_picture

        save_picture(step_figure(run, ranks=ranks), plot)


def _print_table(simulation: StepSimulation) -> None:
    table = Table("one training step (means over workers)", "", show_header=True)
    for row in simulation.facts().items():
        table.add_row(*row)
    console.print(table)
    for line in _assumptions(simulation):
        console.print(f"- {line}")


def _assumptions(simulation: StepSimulation) -> Iterator[str]:
    """Yield what the numbers assume."""
    from dgc_topo.records.measurement import ONE_DENSE_WORKER
    from dgc_topo.report.summary import cost_text

    step, overlaps = simulation.step, simulation.step.bucket_bytes is not None
    when, goes = ("while", "goes on") if overlaps else ("after", "is over")
    if step.every == 1 and not step.moves_first:
        yield f"gradients travel {when} the backward pass {goes}"
    else:
        share = "" if step.participation == 1 else f", {step.participation:.0%} of them"
        if step.absences:
            ranks = sorted({each.rank for each in step.absences})
            share = f", without ranks {', '.join(map(str, ranks))} at times"
        yield f"ranks exchange after {step.every} local step{'s' * (step.every > 1)}{share}"
    if is_sparse(simulation.density):
        yield f"compressing costs {cost_text({step.codec_s})}"
    yield f"the speed-up is relative to {ONE_DENSE_WORKER}"
