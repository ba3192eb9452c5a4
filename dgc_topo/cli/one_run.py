"""One simulated collective of one topology on one cluster: a table, or one JSON object."""

from __future__ import annotations

import io
from pathlib import Path

from rich.table import Table
from rich.text import Text

from dgc_topo.cli.console import console, print_json
from dgc_topo.files import write_whole
from dgc_topo.network.cluster import Cluster
from dgc_topo.simulation import write_goal
from dgc_topo.simulation.collective import Buffer, Simulation, simulate_buffer
from dgc_topo.text import printable
from dgc_topo.topology import Topology
from dgc_topo.units import bytes_text, seconds_text


def run_once(
    topology: Topology,
    cluster: Cluster,
    buffer: Buffer,
    *,
    seed: int,
    goal_file: Path | None,
    as_json: bool,
) -> None:
    """Simulate one topology once and print it.

    Args:
        topology: Topology; if its schedule changes between iterations, the first one is run.
        cluster: Ranks on a network.
        buffer: Buffer that every rank contributes.
        seed: Seed of a topology that draws at random.
        goal_file: File for the schedule as GOAL text, or None.
        as_json: Print one JSON object instead of a table.

    Raises:
        ValueError: if the topology cannot run with so many ranks.
    """
    schedule = topology.schedule(cluster.num_ranks, seed=seed)
    if goal_file is not None:
        text = io.StringIO()
        write_goal(
            schedule, buffer.sizes(schedule), text
        )  # simulate first, so that an error leaves no file behind
        write_whole(goal_file, text.getvalue())
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
        ("wall", seconds_text(run.wall_s), f"to simulate {run.instants:,} instants"),
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
