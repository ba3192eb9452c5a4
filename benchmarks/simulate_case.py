"""One case of `simulate_speed`, in a process of its own: ``simulate_case.py ring 1024 unequal``.

It prints one line of JSON.  It imports only what older versions of the package have, too, so that
``PYTHONPATH=OLDER python benchmarks/simulate_case.py ...`` measures these.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from itertools import product
from pathlib import Path

import numpy as np

from dgc_topo.network import Cluster, Network, draw_racks, from_graph, load_fabric, star
from dgc_topo.network import place_round_robin as in_turn
from dgc_topo.network import slow_host as with_slow_host
from dgc_topo.schedule import Schedule, copy
from dgc_topo.simulation import DenseSizes, simulate_schedule
from dgc_topo.simulation.training import simulate_step
from dgc_topo.topology import load_topology

NUM_BYTES = 100 * 2**20
FABRIC = load_fabric("1gbe")
RACKS, OVERSUBSCRIPTION = 8, 4

#: A case is repeated until this time has passed, and its shortest run counts.
AT_LEAST_S = 1.0

#: Predictions of a training step, as a sweep has them; they come in a random order.
MIX = tuple(
    product(
        (
            "ring",
            "tree",
            "butterfly",
            "hierarchical:group_size=4",
            "parameter-server",
            "sharded-parameter-server",
        ),
        (2, 4, 8, 16, 32, 64, 128, 256),  # ranks
        ("equal", "slow-host"),
        (1.0, 0.01, 0.001),  # densities
        (False, True),  # overlap
    )
)
MIX_S = 20.0  #: seconds after which no further prediction begins


def factors_of(count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return factors of bandwidths, +-20 %."""
    return np.random.default_rng(0).uniform(0.8, 1.2, count)


def star_of(world_size: int, network: str) -> Network:
    """Return a 1 GbE star: all links equal, +-20 %, or one host at half speed."""
    bandwidth, latency_s = FABRIC.bandwidth_bytes_per_s, FABRIC.latency_s / 2
    if network == "unequal":
        return star(world_size, bandwidth * factors_of(2 * world_size), latency_s)
    equal = star(world_size, bandwidth, latency_s)
    return with_slow_host(equal, 0, 0.5) if network == "slow-host" else equal


def racks_of(world_size: int) -> Network:
    """Return racks with uplinks of a quarter of their hosts' bandwidth; hosts differ by +-20 %."""
    graph = draw_racks(
        RACKS,
        world_size // RACKS,
        FABRIC.bandwidth_bytes_per_s,
        oversubscription=OVERSUBSCRIPTION,
        latency_s=FABRIC.latency_s / 2,
    )
    own = [data for start, end, data in graph.edges(data=True) if "core" not in {start, end}]
    for data, factor in zip(own, factors_of(world_size).tolist(), strict=True):
        data["bandwidth_bytes_per_s"] *= factor
    return from_graph(graph)


def cluster_of(world_size: int, network: str) -> Cluster:
    """Return a cluster by the name that cases use."""
    if not network.startswith("racks"):
        return Cluster(network, star_of(world_size, network), np.arange(world_size))
    takes_turns = network == "racks-in-turn"
    places = in_turn(world_size, RACKS, world_size // RACKS) if takes_turns else None
    slots = np.arange(world_size) if places is None else places
    return Cluster(network, racks_of(world_size), slots)


def schedule_of(topology: str, world_size: int) -> Schedule:
    """Return a topology's schedule; in a ``chain`` each rank sends to the next, step by step."""
    if topology != "chain":
        return load_topology(topology).schedule(world_size)
    steps = (copy(rank, rank + 1) for rank in range(world_size - 1))
    return Schedule.from_steps(world_size, 1, steps, goal="part")


def schedule_case(topology: str, world_size: int, network: str) -> dict[str, object]:
    """Simulate one collective; building the schedule's steps counts, the network does not."""
    cluster = cluster_of(world_size, network)
    best_s, started = float("inf"), time.perf_counter()
    while best_s == float("inf") or time.perf_counter() - started < AT_LEAST_S:
        schedule = schedule_of(topology, world_size)
        begun = time.perf_counter()
        result = simulate_schedule(schedule, cluster, DenseSizes(NUM_BYTES, schedule.num_chunks))
        best_s = min(best_s, time.perf_counter() - begun)
    return {
        "count": result.messages,
        "wall_s": best_s,
        "answer": result.time_s,
        "engine": getattr(result, "engine", "events"),
    }


def mix_case() -> dict[str, object]:
    """Predict training steps one after the other, as a sweep does."""
    order = np.random.default_rng(0).permutation(len(MIX)).tolist()
    begun, count, answer = time.perf_counter(), 0, 0.0
    for topology, world_size, network, density, overlap in (MIX[at] for at in order):
        if time.perf_counter() - begun > MIX_S:
            break
        cluster = FABRIC if network == "equal" else cluster_of(world_size, network)
        found = simulate_step(
            "resnet50", topology, cluster, world_size=world_size, density=density, overlap=overlap
        )
        count, answer = count + 1, answer + found.step_time_s
    wall_s = time.perf_counter() - begun
    return {"count": count, "wall_s": wall_s, "answer": answer, "engine": ""}


def machine_speed(size: int, at_least_s: float = 0.1) -> float:
    """Return elements per second of a fixed loop of array operations, like a step of a ring."""
    rng = np.random.default_rng(0)
    times, order = rng.random(size), np.roll(np.arange(size), 1)
    count, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < at_least_s:
        np.maximum(times, times[order], out=times)
        times += 1e-9
        count += 1
    return count * size / (time.perf_counter() - begun)


def peak_bytes() -> int:
    """Return the most memory that this process has had.

    (On Linux, ``getrusage`` counts the memory of the process that started this one.)
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    """Run the case that the arguments name, and print what it took."""
    topology, world_size, network = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    speed = machine_speed(1024)
    found = mix_case() if topology == "mix" else schedule_case(topology, world_size, network)
    print(json.dumps({**found, "speed": speed, "peak_bytes": peak_bytes()}))


if __name__ == "__main__":
    main()
