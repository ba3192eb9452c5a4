"""Speed of sweeps: ten thousand training steps, printed as seconds and predictions per second.

Run ``python benchmarks/sweep_speed.py`` (about a minute on 2 cores); ``--part 4`` takes every
fourth bandwidth only.  The steps have 2 to 256 ranks on stars, in mixed topologies and models;
half of them have a slow host, whose links are at half speed.
"""

from __future__ import annotations

import argparse
import resource
import time

import dgc_topo as dt

TARGET_S = 60.0  #: the project's own, for 10,000 predictions on 2 cores
TOPOLOGIES = (
    *("ring", "butterfly", "tree", "hierarchical:group_size=4"),
    *("sharded-parameter-server", "parameter-server", "gossip:graph=one-peer-exponential"),
)
MODELS = ("resnet50", "vgg16", "alexnet")
NUM_BANDWIDTHS = 16


def run(num_bandwidths: int, processes: int | None) -> dt.Sweep:
    """Predict with equal hosts, and with a slow one."""
    return dt.sweep(
        TOPOLOGIES,
        dt.spread(2, 256, 8),
        "10gbe",
        MODELS,
        bandwidth=dt.spread("100Mbit/s", "100Gbit/s", num_bandwidths),
        density=[1.0, 0.01],
        overlap=True,
        slow_host_bandwidth_factor=[1.0, 0.5],
        processes=processes,
    )


def cpu_s() -> float:
    """Return the processor time of this process and of its children that have ended."""
    spent = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in spent)


def main() -> None:
    """Print the time of a sweep, and what of it is per prediction."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", type=int, default=1, help="take one of so many bandwidths")
    parser.add_argument("--processes", type=int, help="worker processes; one per core by default")
    asked = parser.parse_args()
    began_s, began_cpu_s = time.perf_counter(), cpu_s()
    found = run(max(2, NUM_BANDWIDTHS // asked.part), asked.processes)
    wall_s, used_s = time.perf_counter() - began_s, cpu_s() - began_cpu_s
    predicted = len(found) - len(found.skipped)
    per_10_000_s = 1e4 * wall_s / predicted
    verdict = "" if per_10_000_s < TARGET_S else ", MISSED"
    print(f"{predicted:,} predictions ({len(found.skipped):,} skipped) in {wall_s:.1f} s")
    print(f"{predicted / wall_s:,.0f} predictions/s; 10,000 take {per_10_000_s:.1f} s")
    print(f"{1e3 * used_s / predicted:.2f} ms of processor time each")
    print(f"target: under {TARGET_S:g} s{verdict}")


if __name__ == "__main__":
    main()
