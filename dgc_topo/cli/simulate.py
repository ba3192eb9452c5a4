"""Command ``dgc-topo simulate``: a whole scenario, or one topology once on one network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dgc_topo.cli.console import about, clear_errors, clear_warnings, console, topology_from
from dgc_topo.cli.options import (
    TOPOLOGY,
    Bandwidth,
    Latency,
    NetworkName,
    Options,
    Seed,
    check_seed,
    cluster_from,
    fraction,
    needed,
    refuse_options,
)
from dgc_topo.cli.outputs import check_file, check_folder

Target = Annotated[
    str, typer.Argument(help=f"scenario (a .toml file or a name), or a topology: {TOPOLOGY}")
]
WorldSize = Annotated[int | None, typer.Option("--world-size", "-n", help="number of ranks")]
Size = Annotated[
    str | None, typer.Option("--bytes", help="size of the dense buffer, such as 100MiB")
]
Density = Annotated[
    float,
    typer.Option(
        help="fraction of the fp32 elements sent, with indices", parser=fraction, metavar="FRACTION"
    ),
]
UnionExponent = Annotated[
    float | None,
    typer.Option(
        "--union-exponent",
        "--overlap-exponent",  # its name in earlier releases
        help="c ranks' entries merge into c**exponent times one's; else independent",
    ),
]
Goal = Annotated[
    Path | None, typer.Option(help="also write the schedule as GOAL text into this file")
]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON object")]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="scenario: results folder (default: results/NAME)"),
]


def simulate(  # noqa: PLR0913  # each argument is an option on the command line
    context: typer.Context,
    target: Target,
    *,
    world_size: WorldSize = None,
    size: Size = None,
    network: NetworkName = "1gbe",
    bandwidth: Bandwidth = None,
    latency: Latency = None,
    option: Options = None,
    density: Density = 1.0,
    union_exponent: UnionExponent = None,
    seed: Seed = 0,
    goal: Goal = None,
    as_json: AsJson = False,
    output: Output = None,
) -> None:
    """Predict a scenario's workloads without training, or run one topology once on one network.

    For example:

    - dgc-topo simulate scaling-1gbe-vs-infiniband
    - dgc-topo simulate ring -n 16 --bytes 100MB --network 10gbe
    """
    with clear_errors(), clear_warnings(), about(target):
        scenario = _scenario_of(target)
        if scenario is not None:
            why = f"is for a topology; {target} is a scenario, which says it itself"
            refuse_options(context, lambda name: name not in {"target", "output"}, why)
            check_folder("--output", output)
            _simulate_scenario(scenario, output)
            return
        from dgc_topo.cli.one_run import run_once
        from dgc_topo.simulation.collective import Buffer
        from dgc_topo.units import bytes_from

        why = f"is for a scenario file; {target!r} is a topology"
        refuse_options(context, lambda name: name == "output", why)
        check_file("--goal", goal)
        topology = topology_from(target, option or [])
        check_seed(seed, topology)
        num_ranks = needed(world_size, "--world-size", "a number of ranks")
        num_bytes = bytes_from(needed(size, "--bytes", "a size such as 100MiB"), "--bytes")
        topology.schedule(num_ranks)  # refuse a topology that cannot run before any other work
        cluster = cluster_from(network, num_ranks, bandwidth, latency)
        buffer = Buffer(num_bytes, density, union_exponent=union_exponent)
        run_once(topology, cluster, buffer, seed=seed, goal_file=goal, as_json=as_json)


def _scenario_of(target: str) -> Path | None:
    """Return the scenario file that *target* names, or None if it can only be a topology."""
    from dgc_topo.experiments.shipped import scenario_path, shipped_scenarios
    from dgc_topo.plugins import known_topologies

    if target.endswith(".toml"):
        return Path(target)
    shipped = target in {each.name for each in shipped_scenarios()}
    return scenario_path(target) if shipped and target not in known_topologies() else None


def _simulate_scenario(path: Path, output: Path | None) -> None:
    from dgc_topo.cli.progress import ProgressBars
    from dgc_topo.cli.show import print_findings
    from dgc_topo.experiments.runner import run_scenario

    with ProgressBars(console) as bars:
        folder = run_scenario(path, output, bars, train=False)
    print_findings(folder)
