"""Entries that ranks send in sparse sums, by topology and policy, and what of the sum they apply.

    python -m benchmarks.sparse_sums                   the tables of benchmarks/results
    python -m benchmarks.sparse_sums --ranks 8 --densities 1%      a few rows of them
    python -m benchmarks.sparse_sums --predictions                 the last one alone, half a minute

Supports are those of a CNN on Fashion-MNIST that 64 virtual workers train by DGC; fewer ranks take
the first of them.  Up to 64 ranks sum in one process, with the messages of a real run; 2 to 8 real
processes send the same, byte by byte, or the command fails; up to 1024 ranks are simulated.
Re-selection that is balanced knows the sums of the steps before.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import FileStore
from torch.multiprocessing.spawn import start_processes

import dgc_topo as dt
from benchmarks.supports import Supports, trained_supports
from dgc_topo.compression.balance import Balance
from dgc_topo.compression.layout import FlatLayout
from dgc_topo.payload import (
    Entries,
    Payload,
    PlacedPayload,
    Quotas,
    SparsePayload,
    equal_bounds,
)
from dgc_topo.payload.placed import PlacesPayload
from dgc_topo.payload.shares import Shares
from dgc_topo.runtime import run_in_process
from dgc_topo.schedule import Schedule
from dgc_topo.schedule.completion import Merge
from dgc_topo.units import fraction_from

MOST_RANKS = 64
FIRST, LAST = 28, 40  # steps before the first one only train; the last two are looked at
LOOKED_AT = 2
TOPOLOGIES = (
    "ring",
    "butterfly",
    "tree",
    "hierarchical:group_size=4",
    "sharded-parameter-server",
)
SIMULATED = (64, 256, 1024)
PROCESSES = (2, 3, 4, 5, 6, 7, 8)


class Way(NamedTuple):
    """A policy, and how chunks are cut."""

    merge: Merge
    is_balanced: bool

    def __str__(self) -> str:
        return self.merge + (", balanced" if self.is_balanced else "")


WAYS = (
    Way("union", False),
    Way("union", True),
    Way("reselect", False),
    Way("reselect", True),
    Way("auto", False),
)


class Counted:
    """Entries with values that a rank sends, counted."""

    def __init__(self) -> None:
        self.entries = 0

    def watch(self, payload: Payload) -> None:
        """Count what *payload* packs; places without values are not entries."""
        if not isinstance(payload, SparsePayload) or isinstance(payload, PlacesPayload):
            return
        pack = payload.pack

        def counted(chunk: int, count: int) -> Tensor:
            self.entries += len(payload._pieces.take(chunk, chunk + count).indices)  # noqa: SLF001  # no other door
            return pack(chunk, count)

        vars(payload)["pack"] = counted


class CountedPlaced(PlacedPayload):
    """A sum in two passes whose second one is counted."""

    counter: Counted

    def passes(self) -> Iterator[Payload]:
        """See `PlacedPayload.passes`."""
        for payload in super().passes():
            self.counter.watch(payload)
            yield payload


@dataclass
class Row:
    """Traffic of one way in one step, in entries of one rank's own.

    Attributes:
        mean: Of all ranks.
        most: Of the busiest one.
        num_bytes: That the busiest one sends.
        skew: These bytes over the mean of all ranks.
        mass: L1 norm of what is applied, over that of the largest k entries of the exact sum.
    """

    mean: float
    most: float
    num_bytes: float
    skew: float
    mass: float


def payload_of(
    own: Entries, given: Supports, way: Way, shares: Shares | None, counter: Counted
) -> SparsePayload:
    """Return one rank's payload, which is counted."""
    if way.merge == "union" and way.is_balanced:
        placed = CountedPlaced(*own, given.length)
        placed.counter = counter
        return placed
    quotas = None
    if way.merge != "union":
        known = shares if way.is_balanced else None
        quotas = Quotas(given.offsets, given.counts, way.merge, known)
    bounds_of = equal_bounds if quotas is None else quotas.bounds
    payload = SparsePayload(*own, given.length, bounds_of=bounds_of, quotas=quotas)
    counter.watch(payload)
    return payload


def sum_once(
    schedule: Schedule, given: Supports, way: Way, shares: Shares | None
) -> tuple[Row, Entries]:
    """Sum a step's entries in one process; return what was sent, and the sum."""
    counters, payloads = [], []
    for own in given.entries[: schedule.world_size]:
        counters.append(Counted())
        payloads.append(payload_of(own, given, way, shares, counters[-1]))
    exact = torch.stack([payload.to_dense() for payload in payloads]).sum(0).abs()
    traffic = run_in_process(schedule, payloads)
    sent = np.array([counter.entries for counter in counters]) / given.k
    num_bytes = np.array([each.bytes_sent for each in traffic])
    total = payloads[0].to_dense()
    assert all(payload.to_dense().equal(total) for payload in payloads)
    row = Row(
        float(sent.mean()),
        float(sent.max()),
        float(num_bytes.max()),
        float(num_bytes.max() / num_bytes.mean()),
        float(total.abs().sum() / exact.topk(given.k).values.sum()),
    )
    indices = total.nonzero().view(-1)
    return row, Entries(indices, total[indices])


def remembered(history: Sequence[Supports], num_ranks: int) -> list[Shares | None]:
    """Return what balanced re-selection has learnt before each step of a history."""
    names = tuple(map(str, range(len(history[0].counts))))
    sizes = tuple((end - begin,) for begin, end in pairwise(history[0].offsets))
    memory, found = Balance(FlatLayout(names, sizes, history[0].offsets)), []
    # The sum depends on the number of chunks, if on anything.
    cheap = dt.load_topology("sharded-parameter-server").schedule(num_ranks)
    for given in history:
        found.append(memory.shares())
        memory.note(sum_once(cheap, given, WAYS[3], found[-1])[1])
    return found


Histories = dict[float, list[Supports]]


def measured(histories: Histories, ranks: Sequence[int]) -> None:
    """Print the table of what is sent in one process."""
    print(
        "| density | N | topology | policy | entries, mean | busiest | kB, busiest | over the mean "
        "| mass |"
    )
    print("| ---: | ---: | :--- | :--- | ---: | ---: | ---: | ---: | ---: |")
    for density, num_ranks in product(histories, ranks):
        memory = remembered(histories[density], num_ranks)
        print_rows(density, num_ranks, histories[density], memory)


def print_rows(
    density: float, num_ranks: int, history: list[Supports], memory: list[Shares | None]
) -> None:
    """Print the rows of one density and number of ranks: means over the last steps."""
    last = list(zip(history, memory, strict=True))[-LOOKED_AT:]
    for topology, way in product(TOPOLOGIES, WAYS):
        schedule = dt.load_topology(topology).schedule(num_ranks)
        rows = [sum_once(schedule, given, way, shares)[0] for given, shares in last]
        mean, most, num_bytes, skew, mass = (
            np.mean([getattr(row, key) for row in rows])
            for key in ("mean", "most", "num_bytes", "skew", "mass")
        )
        applied = "all" if way.merge == "union" else f"{mass:.2f}"
        print(
            f"| {density:.1%} | {num_ranks} | {topology} | {way} | {mean:.1f} "
            f"| {most:.1f} | {num_bytes / 1000:.1f} | {skew:.2f} | {applied} |",
            flush=True,
        )


def last_payloads(
    histories: Histories, density: float, num_ranks: int, way: Way
) -> list[SparsePayload]:
    """Return the payloads of a history's last step, without a memory of the steps before."""
    given = histories[density][-1]
    return [payload_of(own, given, way, None, Counted()) for own in given.entries[:num_ranks]]


def send_really(rank: int, folder: str) -> None:
    """Sum in a real process among others, and compare with the sum in one process."""
    torch.set_num_threads(1)
    histories: Histories = torch.load(f"{folder}/histories", weights_only=False)
    store = FileStore(f"{folder}/store", max(PROCESSES))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=max(PROCESSES))
    for num_ranks in PROCESSES:
        group = dist.new_group(range(num_ranks))
        if rank >= num_ranks:
            continue
        assert group is not None
        for density, topology, way in product(histories, TOPOLOGIES, WAYS[:3]):
            expected = last_payloads(histories, density, num_ranks, way)
            schedule = dt.load_topology(topology).schedule(num_ranks)
            account = run_in_process(schedule, expected)[rank]
            own = last_payloads(histories, density, num_ranks, way)[rank]
            traffic = dt.all_reduce(own, topology, group)
            if not own.to_dense().equal(expected[rank].to_dense()):
                raise SystemExit(f"{num_ranks} x {topology}, {way}: another sum")
            if traffic.bytes_sent != account.bytes_sent:
                raise SystemExit(f"{num_ranks} x {topology}, {way}: other bytes")
    dist.barrier()
    dist.destroy_process_group()


def really(histories: Histories) -> None:
    """Start real processes, each of which sends what it sends in one process."""
    with TemporaryDirectory() as folder:
        last = {density: history[-1:] for density, history in histories.items()}
        torch.save(last, f"{folder}/histories")
        start_processes(send_really, (folder,), max(PROCESSES))  # type: ignore[no-untyped-call]
    print(
        f"{PROCESSES[0]} to {PROCESSES[-1]} real processes end with the same sums, bit for bit, "
        f"and send the same bytes: {len(TOPOLOGIES)} topologies, {len(histories)} densities\n"
    )


def simulated() -> None:
    """Print the table of predictions: 25 M elements at 0.1 % on 1 GbE, independent supports."""
    print("\n| N | topology | policy | MB sent by the busiest | ms |")
    print("| ---: | :--- | :--- | ---: | ---: |")
    ways: list[tuple[str, dict[str, Any]]] = [
        ("union", {}),
        ("union, balanced", {"balance": True}),
        ("reselect", {"merge": "reselect"}),
    ]
    for num_ranks, topology, (name, more) in product(SIMULATED, TOPOLOGIES, ways):
        found = dt.simulate(topology, "1gbe", "100MB", world_size=num_ranks, density=0.001, **more)
        print(
            f"| {num_ranks} | {topology} | {name} | {found.bytes_per_rank / 1e6:.2f} "
            f"| {1000 * found.time_s:.1f} |",
            flush=True,
        )


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="*", default=[4, 8, 16, 32, 64])
    parser.add_argument("--densities", nargs="*", default=["0.1%", "1%"])
    parser.add_argument("--predictions", action="store_true", help="only these, up to 1024 ranks")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.predictions:
        simulated()
        return
    histories: Histories = {}
    for text in chosen.densities:
        density = fraction_from(text, "--densities")
        supports = trained_supports(MOST_RANKS, density, LAST)
        histories[density] = list(deque(supports, maxlen=LAST - FIRST))
    really(histories)
    measured(histories, chosen.ranks)
    simulated()


if __name__ == "__main__":
    main()
