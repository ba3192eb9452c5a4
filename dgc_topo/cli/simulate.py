"""Command ``dgc-topo simulate``: a whole scenario, or one topology once on one network."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

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
    Output,
    Seed,
    check_seed,
    cluster_from,
    needed,
    refuse_options,
)
from dgc_topo.cli.outputs import check_file, check_folder
from dgc_topo.text import printable
from dgc_topo.units import bytes_text, seconds_text

if TYPE_CHECKING:
    from dgc_topo.network import Cluster
    from dgc_topo.simulation.buffer import Buffer
    from dgc_topo.simulation.collective import Simulation
    from dgc_topo.topology import Topology

Target = Annotated[
    str, typer.Argument(help=f"scenario (a .toml file or a name), or a topology: {TOPOLOGY}")
]
OtherRanks = Annotated[int | None, typer.Option("--world-size", "-n", help="number of ranks")]
Size = Annotated[
    str | None, typer.Option("--bytes", help="size of the dense buffer, such as 100MiB")
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
#: Option of each of the library's arguments, for errors.
_OPTIONS = {
    "density": "--density",
    "merge": "--merge",
    "balance": "--balance",
    "union_exponent": "--union-exponent",
}


def simulate(  # noqa: PLR0913  # each argument is an option on the command line
    context: typer.Context,
    target: Target,
    *,
    world_size: OtherRanks = None,
    size: Size = None,
    network: NetworkName = "1gbe",
    bandwidth: Bandwidth = None,
    latency: Latency = None,
    option: Options = None,
    density: Fraction = 1.0,
    union_exponent: UnionExponent = None,
    merge: MergeOption = "union",
    balance: BalanceOption = False,
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
    with clear_errors(), naming_options(_OPTIONS), about(target):
        scenario = _scenario_of(target)
        if scenario is not None:
            why = f"is for a topology; {target} is a scenario, which says it itself"
            refuse_options(context, lambda name: name not in {"target", "output"}, why)
            check_folder("--output", output)
            _simulate_scenario(scenario, output)
            return
        from dgc_topo.simulation.arguments import as_merge
        from dgc_topo.simulation.buffer import Buffer
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
        policy = as_merge(merge)
        buffer = Buffer(
            num_bytes, density, union_exponent=union_exponent, merge=policy, balance=balance
        )
        _run_once(topology, cluster, buffer, seed=seed, goal_file=goal, as_json=as_json)


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


def _run_once(
    topology: Topology,
    cluster: Cluster,
    buffer: Buffer,
    *,
    seed: int,
    goal_file: Path | None,
    as_json: bool,
) -> None:
    """Simulate one topology once (its first iteration if it varies) and print it.

    Raises:
        ValueError: if the topology cannot run with so many ranks.
    """
    from dgc_topo.cli.progress import simulating
    from dgc_topo.files import write_whole
    from dgc_topo.simulation.collective import simulate_buffer
    from dgc_topo.simulation.goal import write_goal

    schedule = topology.schedule(cluster.num_ranks, seed=seed)
    if goal_file is not None:
        text = io.StringIO()
        write_goal(
            schedule, buffer.sizes(schedule), text
        )  # simulate first, so that an error leaves no file behind
        write_whole(goal_file, text.getvalue())
    with simulating(errors):
        simulation = simulate_buffer(topology, schedule, cluster, buffer)
    if as_json:
        print_json(simulation.as_dict(), indent=2)
        return
    _print_table(simulation, cluster)
    if goal_file is not None:
        console.print(f"GOAL: {goal_file}", soft_wrap=True)


def _print_table(simulation: Simulation, cluster: Cluster) -> None:
    buffer, run, bounds = simulation.buffer, simulation.run, simulation.run.bounds
    density = f" at density {buffer.density:g}" if buffer.is_sparse else ""
    text = (
        f", {simulation.world_size} ranks, {bytes_text(buffer.num_bytes)}{density}, "
        f"on {printable(_network_text(cluster))}"
    )
    console.print(Text(printable(simulation.topology), "bold") + Text(text), soft_wrap=True)
    table = Table("what", "value", "note")
    table.columns[1].justify = "right"
    for row in (
        ("time", seconds_text(run.time_s), f"bound by {bounds.bound_by}"),
        (
            "lower bound",
            seconds_text(simulation.lower_bound_s),
            f"of any schedule: {simulation.goal}",
        ),
        ("busiest link", seconds_text(bounds.link_s), bounds.link),
        ("busiest CPU", seconds_text(bounds.cpu_s), bounds.cpu),
        ("latency", seconds_text(bounds.latency_s), "longest chain of messages"),
        ("messages", f"{run.messages:,}", "of all ranks"),
        ("bytes per rank", bytes_text(simulation.bytes_per_rank), "sent by the busiest"),
        ("algbw", f"{bytes_text(simulation.algbw_bytes_per_s)}/s", "dense bytes over time"),
        (
            "busbw",
            f"{bytes_text(simulation.busbw_bytes_per_s)}/s",
            "compares with a port's bandwidth",
        ),
        ("wall", seconds_text(run.wall_s), f"to simulate, engine {run.engine}"),
    ):
        table.add_row(*row)
    console.print(table)


def _network_text(cluster: Cluster) -> str:
    network = cluster.network
    if cluster.fabric is None:
        return f"{cluster.name}: {network.num_hosts} hosts, {network.num_links} links"
    rate = f"{bytes_text(float(network.bandwidth_bytes_per_s[0]))}/s"
    alpha = seconds_text(2 * float(network.latency_s[0]))
    return f"{cluster.name}: {rate} each way, {alpha} host to host"
