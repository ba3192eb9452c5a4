"""`dgc-topo step`: one simulated training step, on the terminal and in files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from rich.table import Table

from dgc_topo.cli.console import about, clear_errors, console, print_json, topology_from
from dgc_topo.cli.options import (
    TOPOLOGY,
    Bandwidth,
    Fraction,
    Latency,
    NetworkName,
    Options,
    Seed,
    check_seed,
    cluster_from,
)
from dgc_topo.cli.outputs import check_file, check_picture
from dgc_topo.sizes import is_sparse

if TYPE_CHECKING:
    from dgc_topo.simulation.training import StepRun, TrainingStep


def step(  # noqa: PLR0913 - one argument per option
    model: Annotated[str, typer.Argument(help="model of the zoo, such as resnet50")],
    *,
    world_size: Annotated[int, typer.Option("--world-size", "-n", help="number of ranks")],
    topology: Annotated[str, typer.Option(help=TOPOLOGY)] = "ring",
    option: Options = None,
    network: NetworkName = "1gbe",
    bandwidth: Bandwidth = None,
    latency: Latency = None,
    density: Fraction = 1.0,
    overlap: Annotated[bool, typer.Option("--overlap", help="send while computing")] = False,
    jitter: Annotated[float, typer.Option(help="relative spread of compute times")] = 0.0,
    seed: Seed = 0,
    trace: Annotated[Path | None, typer.Option(help="Chrome trace (JSON) to write")] = None,
    plot: Annotated[Path | None, typer.Option(help="picture to write, such as step.svg")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    """Simulate one training step of a model: what its time is spent on, and what bounds it.

    For example:

    - dgc-topo step resnet50 -n 16 --network 1gbe --density 0.001
    - dgc-topo step vgg16 -n 8 --overlap --plot step.svg
    """
    from dgc_topo.simulation.training import simulate_training_step

    with clear_errors(), about(topology):
        check_file("--trace", trace)
        check_picture("--plot", plot)
        chosen = topology_from(topology, option or [])
        check_seed(seed, chosen, draws=jitter > 0)
        schedule = chosen.schedule(world_size, seed=seed)
        if is_sparse(density) and schedule.goal != "all-reduce":
            raise ValueError(
                f"--density {density:g}: {chosen.label} averages parameters, which travel dense; "
                "expected 1"
            )
        does = training_step(model, density, overlap=overlap, jitter=jitter, seed=seed)
        cluster = cluster_from(network, world_size, bandwidth, latency)
        result = simulate_training_step(does, schedule, cluster)
        write_step(does, result, StepFiles(trace, plot), as_json=as_json)


class StepFiles(NamedTuple):
    """Files to write, if any."""

    trace: Path | None
    plot: Path | None


def training_step(
    model: str, density: float, *, overlap: bool, jitter: float, seed: int
) -> TrainingStep:
    """Return the step of a model of the zoo, at its own batch size.

    Raises:
        ValueError: if the model is unknown or a number makes no sense.
    """
    from dgc_topo.simulation.training import (
        ComputeFactors,
        DenseEncoding,
        LognormalJitter,
        SparseEncoding,
        TrainingStep,
    )
    from dgc_topo.simulation.workload_sources import load_workload
    from dgc_topo.tables.keys import bucket_bytes_of

    return TrainingStep(
        workload=load_workload(model),
        encoding=DenseEncoding() if density == 1 else SparseEncoding(density),
        bucket_bytes=bucket_bytes_of(overlap=overlap, bucket_mib=None),
        compute_factors=ComputeFactors(
            jitter=LognormalJitter(jitter) if jitter else None, seed=seed
        ),
    )


def write_step(does: TrainingStep, result: StepRun, files: StepFiles, *, as_json: bool) -> None:
    """Print a step, and write its trace and plot; of many ranks the first 64 are in them."""
    from dgc_topo.report.draw import step_figure
    from dgc_topo.report.style import save_picture
    from dgc_topo.simulation.training import write_chrome_trace
    from dgc_topo.simulation.training.trace import MAX_RANKS
    from dgc_topo.units import seconds_text, times_text

    ranks = range(min(len(result.update_s), MAX_RANKS))
    if files.trace is not None:
        write_chrome_trace(result, files.trace, ranks)
    if files.plot is not None:
        save_picture(step_figure(result, ranks=ranks), files.plot)
    facts = result.phases._asdict() | {
        "step_time_s": result.step_time_s,
        "communication_s": result.communication_s,
        "exposed_share": result.exposed_share,
        "speedup": result.speedup,
        "scaling_efficiency": result.scaling_efficiency,
        "bound_by": result.bound_by,
        "overlap": does.bucket_bytes is not None,
    }
    if as_json:
        print_json(facts)
        return
    table = Table("one training step (means over workers)", "", show_header=True)
    for name, seconds in result.phases._asdict().items():
        table.add_row(name.removesuffix("_s"), seconds_text(seconds))
    table.add_row("step", seconds_text(result.step_time_s))
    hidden = f"{seconds_text(result.communication_s)}, {result.exposed_share:.0%} exposed"
    table.add_row("communication", hidden)
    table.add_row("speed-up", f"{times_text(result.speedup)} ({result.scaling_efficiency:.0%})")
    table.add_row("bound by", result.bound_by)
    console.print(table)
    for line in _assumptions(does):
        console.print(f"- {line}")


def _assumptions(does: TrainingStep) -> Iterator[str]:
    """Yield what the numbers assume."""
    from dgc_topo.records.measurement import ONE_DENSE_WORKER
    from dgc_topo.report.summary import cost_text
    from dgc_topo.simulation.training import DenseEncoding

    when = "while" if does.bucket_bytes is not None else "after"
    goes = "goes on" if does.bucket_bytes is not None else "is over"
    yield f"gradients travel {when} the backward pass {goes}"
    if not isinstance(does.encoding, DenseEncoding):
        yield f"compressing costs {cost_text({does.codec_s})}"
    yield f"the speed-up is relative to {ONE_DENSE_WORKER}"
