"""Entries that ranks send in sparse sums, by topology and policy, and what of the sum they apply.

    python -m benchmarks.sparse_sums            the table of benchmarks/results
    python -m benchmarks.sparse_sums --quick    a few rows of it

Supports are those of a CNN on Fashion-MNIST that 64 virtual workers train by DGC; fewer ranks take
the first of them.  Sums are taken in one process, with the messages of a real run.  Balanced chunks
know the sums of the steps before.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import dgc_topo as dt
from benchmarks.supports import Supports, trained_supports
from dgc_topo.compression.balance import Balance
from dgc_topo.compression.layout import FlatLayout
from dgc_topo.payload import Entries, Quotas, SparsePayload, equal_bounds
from dgc_topo.payload.union import union_sum
from dgc_topo.runtime import run_in_process
from dgc_topo.schedule import Schedule
from dgc_topo.schedule.completion import Merge

MOST_RANKS = 64
FIRST, LAST = 24, 40  # steps before the first one only train; the last four are looked at
LOOKED_AT = 4
TOPOLOGIES = (
    "ring",
    "butterfly",
    "butterfly:algorithm=doubling",
    "tree",
    "mesh",
    "sharded-parameter-server",
)


class Way(NamedTuple):
    """A policy, and how chunks are cut."""

    merge: Merge
    is_balanced: bool

    def __str__(self) -> str:
        return self.merge + (", balanced" if self.is_balanced else "")


WAYS = (Way("union", False), Way("union", True), Way("reselect", False), Way("reselect", True))


class Counting(SparsePayload):
    """A sparse payload that counts the entries that it sends."""

    entries_sent = 0

    def pack(self, chunk: int, count: int) -> Tensor:
        """See `SparsePayload.pack`."""
        self.entries_sent += len(self._take(chunk, chunk + count).indices)
        return super().pack(chunk, count)


@dataclass
class Row:
    """What one way sends in one step, in entries of one rank's own.

    Attributes:
        mean: Of all ranks.
        most: Of the busiest one.
        num_bytes: That the busiest one sends.
        mass: L1 norm of what is applied, over that of the largest k entries of the exact sum.
    """

    mean: float
    most: float
    num_bytes: float
    mass: float


def sum_once(schedule: Schedule, given: Supports, way: Way, memory: Balance) -> tuple[Row, Entries]:
    """Sum a step's entries in one process; return what was sent, and the sum."""
    own = given.entries[: schedule.world_size]
    shares = memory.shares() if way.is_balanced else None
    quotas = None
    if way.merge != "union":
        quotas = Quotas(given.offsets, given.counts, way.merge, shares)
    payloads = [
        Counting(
            *each,
            given.length,
            bounds_of=equal_bounds if shares is None else shares.bounds,
            quotas=quotas,
        )
        for each in own
    ]
    exact = torch.stack([payload.to_dense() for payload in payloads]).sum(0).abs()
    traffic = run_in_process(schedule, payloads)
    sent = np.array([payload.entries_sent for payload in payloads]) / given.k
    total = payloads[0].to_dense()
    row = Row(
        float(sent.mean()),
        float(sent.max()),
        float(max(each.bytes_sent for each in traffic)),
        float(total.abs().sum() / exact.topk(given.k).values.sum()),
    )
    indices = total.nonzero().view(-1)
    return row, Entries(indices, total[indices])


def rows_of(history: Sequence[Supports], topology: str, num_ranks: int, way: Way) -> Iterator[Row]:
    """Yield what a way sends in each of the last steps of a history."""
    names = tuple(map(str, range(len(history[0].counts))))
    sizes = tuple((end - begin,) for begin, end in pairwise(history[0].offsets))
    memory = Balance(FlatLayout(names, sizes, history[0].offsets))
    # What is remembered is the sum alone, which depends on the number of chunks, if on anything.
    cheap = dt.load_topology("sharded-parameter-server").schedule(num_ranks)
    schedule = dt.load_topology(topology).schedule(num_ranks)
    for place, given in enumerate(history):
        is_looked_at = place >= len(history) - LOOKED_AT
        if is_looked_at:
            yield sum_once(schedule, given, way, memory)[0]
        if not way.is_balanced or place == len(history) - 1:
            continue
        if way.merge == "union":
            terms = [(1.0, each) for each in given.entries[:num_ranks]]
            memory.note(union_sum(terms, torch.device("cpu")), largest=False)
        else:
            memory.note(sum_once(cheap, given, way, memory)[1], largest=True)


def measured(densities: Sequence[float], ranks: Sequence[int], topologies: Sequence[str]) -> None:
    """Print the table of what is sent in one process."""
    print("| density | N | topology | policy | entries, mean | entries, busiest | kB | mass |")
    print("| ---: | ---: | :--- | :--- | ---: | ---: | ---: | ---: |")
    for density in densities:
        history = deque(trained_supports(MOST_RANKS, density, LAST), maxlen=LAST - FIRST)
        for num_ranks in ranks:
            for topology in topologies:
                for way in WAYS:
                    rows = list(rows_of(list(history), topology, num_ranks, way))
                    mean, most, num_bytes, mass = (
                        np.mean([getattr(row, key) for row in rows])
                        for key in ("mean", "most", "num_bytes", "mass")
                    )
                    print(
                        f"| {density:.1%} | {num_ranks} | {topology} | {way} | {mean:.1f} "
                        f"| {most:.1f} | {num_bytes / 1000:.1f} | {mass:.2f} |",
                        flush=True,
                    )


def simulated() -> None:
    """Print the table of predictions: 25 M elements at 0.1 % on 1 GbE, independent supports."""
    print("\n| N | topology | policy | MB sent by the busiest | ms |")
    print("| ---: | :--- | :--- | ---: | ---: |")
    for num_ranks in (8, 64, 256, 1024):
        for topology in ("ring", "butterfly", "tree", "sharded-parameter-server"):
            for merge in ("union", "reselect"):
                found = dt.simulate(
                    topology, "1gbe", "100MB", world_size=num_ranks, density=0.001, merge=merge
                )
                print(
                    f"| {num_ranks} | {topology} | {merge} | {found.bytes_per_rank / 1e6:.2f} "
                    f"| {1000 * found.time_s:.1f} |",
                    flush=True,
                )


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few rows only")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.quick:
        measured([0.01], [8, 64], ["sharded-parameter-server"])
    else:
        measured([0.001, 0.01], [4, 8, 16, 32, 64], TOPOLOGIES)
    simulated()


if __name__ == "__main__":
    main()
