"""Sparse all-reduces of real processes, beside Gloo's own.

    dgc-topo lab run --hosts 8 --rate 100Mbit/s -- python -m benchmarks.sparse_lab

Every rank brings entries at random places, 1 % of 25 M elements.  All ways take turns in every
round, so that a slow minute slows all of them; the table has medians over the rounds of the time of
the slowest rank.  Ratios are to Gloo's all-reduce of a sparse COO tensor.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

import dgc_topo as dt
from dgc_topo.schedule.completion import Merge

TOPOLOGIES = (
    "sharded-parameter-server",
    "butterfly",
    "butterfly:algorithm=doubling",
    "ring",
    "tree",
    "mesh",
)
MERGES: tuple[Merge, ...] = ("union", "reselect", "auto")


def entries(length: int, k: int, rank: int) -> Tensor:
    """Return a rank's sparse tensor: *k* normal values at random places, coalesced."""
    random = np.random.default_rng(rank)
    places = np.unique(random.integers(0, length, k + k // 8))
    kept = np.sort(random.choice(places, k, replace=False))
    values = random.standard_normal(k, np.float32)
    return torch.sparse_coo_tensor(
        torch.from_numpy(kept)[None],
        torch.from_numpy(values),
        (length,),
        is_coalesced=True,
        check_invariants=False,
    )


def ways(length: int, k: int, wanted: set[str]) -> dict[str, Callable[[Tensor], object]]:
    """Return the ways to sum, by name; each changes a tensor in place."""
    residual = torch.zeros(length)
    found: dict[str, Callable[[Tensor], object]] = {"gloo": dist.all_reduce}
    for topology in TOPOLOGIES:
        for merge in MERGES:
            more = {} if merge == "union" else {"k": k, "residual": residual}
            name = f"{topology} {merge}"
            if not wanted or name in wanted:
                found[name] = partial(_sum, topology=topology, merge=merge, more=more)
    return found


def _sum(value: Tensor, *, topology: str, merge: Merge, more: dict[str, object]) -> object:
    return dt.all_reduce(value, topology, merge=merge, **more)  # type: ignore[arg-type]


def timed(way: Callable[[Tensor], object], value: Tensor) -> float:
    """Return the seconds that the slowest rank takes from a common start."""
    dist.barrier()
    began = time.perf_counter()
    way(value)
    took = torch.tensor([time.perf_counter() - began])
    dist.all_reduce(took, op=dist.ReduceOp.MAX)
    return float(took)


def main() -> None:
    """Time all ways, and print the table on rank 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=25_000_000)
    parser.add_argument("--density", type=float, default=0.01)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ways", default="", help="those to time, by comma; all by default")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, k = dist.get_rank(), round(chosen.length * chosen.density)
    own = entries(chosen.length, k, rank)
    found = ways(chosen.length, k, set(filter(None, chosen.ways.split(","))))
    times: dict[str, list[float]] = {name: [] for name in found}
    for number in range(chosen.rounds + 1):
        for name, way in found.items():
            took = timed(way, own.clone())
            if number:  # the first round compiles and connects
                times[name].append(took)
    if rank == 0:
        gloo = statistics.median(times["gloo"])
        print(f"{dist.get_world_size()} ranks, {k:,} of {chosen.length:,} elements each")
        print("| way | median s | Gloo's time over it |\n| :--- | ---: | ---: |")
        for name, all_s in sorted(times.items(), key=lambda each: statistics.median(each[1])):
            median = statistics.median(all_s)
            print(f"| {name} | {median:.3f} | {gloo / median:.2f} |", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
