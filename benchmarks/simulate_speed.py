"""How fast the simulator is: messages per second and peak memory, and how both grow with ranks.

Run ``python benchmarks/simulate_speed.py`` (about three minutes); ``--quick`` leaves out the two
largest cases.  Every case runs in a process of its own, so that its peak memory is its own.
Wall time includes building the schedule's steps, which are yielded while simulating.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
from dataclasses import dataclass

import numpy as np

from dgc_topo.network import Network, load_fabric, star
from dgc_topo.simulation import DenseSizes, simulate_schedule
from dgc_topo.topology import load_topology

NUM_BYTES = 100 * 2**20


@dataclass(frozen=True)
class Case:
    """One simulation, and how long it may take (seconds; the project's own targets)."""

    topology: str
    world_size: int
    network: str = "equal"
    limit_s: float | None = None


NAMED = (
    Case("ring", 1024, limit_s=0.7),
    Case("butterfly", 65_536, limit_s=1.5),
    Case("ring", 256, "unequal", limit_s=8.0),
    Case("ring", 1024, "one slow"),
    Case("butterfly", 1_048_576, limit_s=60.0),
    Case("ring", 1024, "unequal"),
)
GROWTH = (
    *(Case("ring", 1 << level) for level in range(6, 12)),
    *(Case("butterfly", 1 << level) for level in range(6, 19, 2)),
    *(Case("mesh", 1 << level) for level in range(6, 11)),
    *(Case("ring", 1 << level, "unequal") for level in range(6, 10)),
)


def network_of(case: Case) -> Network:
    """Return a 1 GbE star: all links equal, one host at half speed, or all links +-20 %."""
    fabric = load_fabric("1gbe")
    factors = np.ones(2 * case.world_size)
    if case.network == "unequal":
        factors = np.random.default_rng(0).uniform(0.8, 1.2, 2 * case.world_size)
    elif case.network == "one slow":
        factors[[0, case.world_size]] = 0.5
    latency_s = np.full(2 * case.world_size, fabric.latency_s / 2)
    return star(case.world_size, fabric.bandwidth_bytes_per_s * factors, latency_s)


def run(case: Case) -> tuple[int, str, float, float]:
    """Return messages, the engine, wall seconds and the peak memory of this process in bytes."""
    schedule = load_topology(case.topology, {}).schedule(case.world_size)
    result = simulate_schedule(
        schedule, network_of(case), DenseSizes(NUM_BYTES, schedule.num_chunks)
    )
    unit = 1 if sys.platform == "darwin" else 1024
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return result.messages, result.engine, result.wall_s, peak_bytes


def show(title: str, cases: tuple[Case, ...]) -> None:
    """Run cases and print a table."""
    print(f"\n{title}: {NUM_BYTES >> 20} MiB on a 1 GbE star")
    print(
        f"{'topology':<11}{'ranks':>9} {'links':<9}{'messages':>11}{'engine':>10}"
        f"{'wall s':>9}{'messages/s':>12}{'peak MB':>9}  target"
    )
    for case in cases:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            messages, engine, wall_s, peak_bytes = pool.apply(run, (case,))
        target = "" if case.limit_s is None else f"< {case.limit_s:g} s"
        if case.limit_s is not None and wall_s > case.limit_s:
            target += " MISSED"
        print(
            f"{case.topology:<11}{case.world_size:>9} {case.network:<9}{messages:>11}"
            f"{engine:>10}{wall_s:>9.3f}"
            f"{messages / wall_s:>12.0f}{peak_bytes / 1e6:>9.0f}  {target}",
            flush=True,
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="leave out the two largest cases")
    quick = parser.parse_args().quick
    show("named cases", NAMED[:4] if quick else NAMED)
    show("growth", GROWTH)


if __name__ == "__main__":
    main()
