"""All-reduces of Open MPI and MPICH beside ours and Gloo's, in one lab.

    apt-get install openmpi-bin mpich && pip install 'dgc-topo[mpi]'
    python -m benchmarks.mpi --output mpi.jsonl

Every rank is a host of its own.  The ranks of all libraries are there at the same time and take
turns, so that a slow minute slows all of them; who has no turn waits without taking processor time.
A turn is some all-reduces in a row after a barrier; a row of the output is the median over turns
of the slowest rank's seconds per all-reduce.  A command that was interrupted, or whose time is over
(``--at-most``), goes on when it is given again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated

import typer

from benchmarks.mpi.orders import GLOO, TORCH
from benchmarks.mpi.start import MPIRUN, Ranks, missing, start_ranks
from dgc_topo.cli.console import clear_errors, print_raw
from dgc_topo.experiments.bench.collectives import sizes_from
from dgc_topo.units import bytes_text, link_rate_from, seconds_from
from dgc_topo.workers.lab import Lab, LabSpec

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

#: Topologies that are measured, for buffers up to `_LARGE_BYTES`, and above.
SMALL = ("tree", "butterfly", "butterfly:algorithm=doubling", "hierarchical", "ring")
LARGE = ("butterfly", "ring", "ring:segments=4")
_LARGE_BYTES = 1_000_000

_TURN_S, _MOST_IN_A_ROW = 0.05, 30  # whole numbers stay within float32's range that often
_FEWEST_TURNS, _MOST_TURNS = 3, 60
_SLOWEST = 1.6  #: times Gloo's, or the way has one turn only
_LONG_S = 1.0  #: an all-reduce that takes longer needs no other one to warm up


@dataclass(frozen=True, slots=True)
class Row:
    """Measured time of one way at one size.

    Attributes:
        rate: Of every host's link.
        world_size: Ranks.
        size_bytes: Of the buffer, float32.
        way: ``gloo``, a library of MPI, or a topology of ours.
        turns: Number of them; 1 for a way far slower than Gloo.
        time_s: Median over turns of the slowest rank's seconds per all-reduce.
        spread_s: Between the quartiles.
        cpu_s: Processor seconds of all ranks together, per all-reduce; None after one turn.
        load: Load average over a minute, as the size began.
    """

    rate: str
    world_size: int
    size_bytes: int
    way: str
    turns: int
    time_s: float
    spread_s: float
    cpu_s: float | None
    load: float


@app.command()
def main(
    output: Annotated[Path, typer.Option(help="file of the rows (JSON lines), gone on with")],
    world_size: Annotated[
        list[int] | None, typer.Option("--world-size", "-n", help="ranks; several", min=2)
    ] = None,
    sizes: Annotated[str, typer.Option(help="buffers: 1kB,1MB or 1kB:40MB")] = "1kB:40MB",
    rate: Annotated[str, typer.Option(help="of every link, or unshaped")] = "100 Mbit/s",
    budget: Annotated[str, typer.Option(help="time for the turns of one size")] = "15s",
    at_most: Annotated[str, typer.Option(help="begin no further size after so long")] = "1000s",
) -> None:
    """Measure what the file lacks, and print its table."""
    with clear_errors():
        buffers, budget_s = sizes_from(sizes), seconds_from(budget, "--budget")
        link = link_rate_from(rate, "--rate")
        until_s = time.monotonic() + seconds_from(at_most, "--at-most")
        if (lacking := missing()) is not None:
            print_raw(f"skipped: {lacking}\n")
            raise typer.Exit
        done = {(row.rate, row.world_size, row.size_bytes) for row in read(output)}
        for ranks in world_size or (4, 8):
            todo = [size for size in buffers if (rate, ranks, size) not in done]
            if not todo or time.monotonic() > until_s:
                continue
            spec = LabSpec(num_hosts=ranks, rate_bits_per_s=link)
            with Lab(spec) as lab, start_ranks(lab, ranks) as libraries:
                for size in todo:
                    if time.monotonic() < until_s:
                        found = measured(libraries, rate, ranks, size, budget_s)
                        _append(output, list(found))
        print_raw(table(read(output)))


def read(path: Path) -> list[Row]:
    """Return the rows of a file; none, if there is no such file."""
    if not path.exists():
        return []
    return [Row(**json.loads(line)) for line in path.read_text().splitlines()]


def _append(path: Path, rows: Sequence[Row]) -> None:
    with path.open("a") as file:
        file.write("".join(json.dumps(asdict(row)) + "\n" for row in rows))


def measured(ranks: Ranks, rate: str, world_size: int, size: int, budget_s: float) -> Iterator[Row]:
    """Let all ways take turns at one size, and yield a row for each.

    Raises:
        RuntimeError: if a sum is wrong.
    """
    load = os.getloadavg()[0]
    ours = SMALL if size <= _LARGE_BYTES else LARGE
    ways = {**dict.fromkeys(MPIRUN, ""), **dict.fromkeys((GLOO, *ours), TORCH)}
    turns = _Turns(ranks, {way: library or way for way, library in ways.items()}, size // 4)
    first = {way: turns.check(way) for way in ways}
    fast = [way for way in ways if first[way] <= _SLOWEST * first[GLOO]]
    counts = {way: max(1, min(_MOST_IN_A_ROW, int(_TURN_S / first[way]))) for way in ways}
    expected_s = sum(counts[way] * first[way] for way in fast)
    rounds = max(_FEWEST_TURNS, min(_MOST_TURNS, int(budget_s / expected_s)))
    taken: dict[str, list[tuple[float, float]]] = {way: [] for way in fast}
    for number in range(rounds):
        for way in fast[number % len(fast) :] + fast[: number % len(fast)]:
            taken[way].append(turns.take(way, counts[way]))
    for way in ways:
        times = [time_s for time_s, _ in taken.get(way, [])] or [first[way]]
        low, _, high = quantiles(times, n=4) if way in taken else (0.0, 0.0, 0.0)
        cpu_s = median(cpu_s for _, cpu_s in taken[way]) if way in taken else None
        row = rate, world_size, size, way, len(times), median(times), high - low, cpu_s, load
        yield Row(*row)


class _Turns:
    """Turns of the ways at one size.

    Args:
        ranks: Of all libraries.
        libraries: The library of each way.
        length: Elements.
    """

    def __init__(self, ranks: Ranks, libraries: Mapping[str, str], length: int) -> None:
        self._ranks, self._libraries, self._length = ranks, libraries, length

    def check(self, way: str) -> float:
        """Check a way's sum, and return the seconds of an all-reduce once it is warm."""
        order = {"way": way, "length": self._length, "count": 0}
        answers = self._ranks.order(self._libraries[way], **order)
        if not all(answer["right"] for answer in answers):
            raise RuntimeError(f"{way}: {4 * self._length} bytes: not the sum of all ranks")
        taken_s = max(float(answer["time_s"]) for answer in answers)
        return taken_s if taken_s > _LONG_S else self.take(way, 1)[0]

    def take(self, way: str, count: int) -> tuple[float, float]:
        """Return the slowest rank's and all ranks' processor seconds, per all-reduce."""
        order = {"way": way, "length": self._length, "count": count}
        answers = self._ranks.order(self._libraries[way], **order)
        cpu_s = sum(answer["cpu_s"] for answer in answers)
        return max(answer["time_s"] for answer in answers), cpu_s


def table(rows: Sequence[Row]) -> str:
    """Return the table of all sizes in Markdown: times in ms, and ours over the best of others."""
    others = (*MPIRUN, GLOO)
    lines = [
        f"| rate | ranks | size | {' | '.join(others)} | ours | topology | ours/best of others |",
        "| :--- | ---: | ---: |" + " ---: |" * len(others) + " ---: | :--- | ---: |",
    ]
    for rate, ranks, size in sorted({(row.rate, row.world_size, row.size_bytes) for row in rows}):
        found = {
            row.way: row
            for row in rows
            if (row.rate, row.world_size, row.size_bytes) == (rate, ranks, size)
        }
        theirs = [found[way].time_s for way in others]
        ours = min((found[way] for way in found if way not in others), key=lambda row: row.time_s)
        cells = [f"{1e3 * time_s:.2f}" for time_s in (*theirs, ours.time_s)]
        ratio = ours.time_s / min(theirs)
        head = f"| {rate} | {ranks} | {bytes_text(size)} |"
        lines.append(f"{head} {' | '.join(cells)} | {ours.way} | {ratio:.2f} |")
    return "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    app()
