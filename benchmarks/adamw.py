"""AdamW on virtual workers, dense and compressed: a character transformer that learns Austen.

Run ``python -m benchmarks.adamw`` (``--help`` lists its options).  It appends one record per run
and leaves out runs that are there already, so it can be stopped at any time; ``--table`` prints
what is there.  Every method's learning rate is the best of one grid for all, at 1 %, with half the
steps, four workers and a seed that the table does not use.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table

from benchmarks.adamw_methods import METHODS, Method
from benchmarks.char_transformer import Workers
from dgc_topo.cli.console import clear_errors, console
from dgc_topo.cli.streams import run
from dgc_topo.sizes import FLOAT_BYTES
from dgc_topo.units import bytes_text, times_text

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

RESULTS = Path(__file__).parent / "results" / "2026-11-30-adamw.jsonl"
GRID = tuple(2e-3 * 2.0**power for power in range(-2, 5))  #: learning rates, 0.5e-3 to 32e-3
_FIRST_TRIED = slice(2, 5)
SEEDS, TUNING_SEED = (1, 2, 3), 0
WORKERS, TUNING_WORKERS, TUNING_DENSITY = (4, 8), 4, 0.01
STEPS, BATCH = 600, 8  # windows of all workers together
_WARM_UP, _LEAST = 0.1, 0.02  # share of the steps; share of the peak at the end


@dataclass(frozen=True, slots=True)
class Row:
    """A way to train.

    Attributes:
        method: Its name in `METHODS`.
        density: Fraction sent after the warm-up; 1 where the method has none.
        warm_up: Share of the steps over which density falls.
    """

    method: str
    density: float = 1.0
    warm_up: float = 0.0


HALF_AHEAD = "update, half ahead"
ROWS = (
    Row("dense"),
    Row("powersgd"),
    *(Row(method, 0.01) for method in ("gradient", "update", HALF_AHEAD)),
    *(Row(method, 0.001) for method in ("gradient", "update", HALF_AHEAD)),
    Row(HALF_AHEAD, 0.1),
    Row(HALF_AHEAD, 0.01, warm_up=0.1),
)


@dataclass(frozen=True, slots=True)
class Job:
    """One training; two jobs that are equal need one record.

    Attributes:
        row: Way to train.
        num_workers: N.
        seed: Seed of weights and batches.
        lr: Peak of the learning rate.
        steps: Steps in all.
    """

    row: Row
    num_workers: int
    seed: int
    lr: float
    steps: int

    def key(self) -> str:
        """Return the text that tells this job from others."""
        return json.dumps(asdict(self), sort_keys=True)


def train(job: Job) -> dict[str, Any]:
    """Run a job and return its record: losses in nats per character, bytes per worker and step."""
    workers = Workers(job.num_workers, job.seed, BATCH)
    warm_up_steps = round(job.row.warm_up * job.steps)
    method: Method = METHODS[job.row.method](workers, job.row.density, warm_up_steps)
    began_s = time.process_time()
    num_bytes = [method.step(lr_at(step, job)) for step in range(job.steps)]
    before = workers.validation_loss()
    method.flush()
    return {
        **asdict(job),
        "loss": workers.validation_loss(),
        "loss_before_flush": before,
        "bytes_per_step": statistics.fmean(num_bytes),
        "parameters": sum(p.numel() for p in workers.parameters.values()),
        "cpu_s": time.process_time() - began_s,
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
    }


def lr_at(step: int, job: Job) -> float:
    """Return the learning rate: a linear warm-up, then a cosine."""
    rising = max(1, round(_WARM_UP * job.steps))
    if step < rising:
        return job.lr * (step + 1) / rising
    done = (step - rising) / max(1, job.steps - rising)
    return job.lr * (_LEAST + (1 - _LEAST) * (1 + math.cos(math.pi * done)) / 2)


class Records:
    """Records in a file of JSON lines, by job.

    Args:
        path: File; made by the first record.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        self._found = {_job_of(r).key(): r for r in map(json.loads, text.splitlines())}

    def get(self, job: Job) -> dict[str, Any] | None:
        """Return the record of a job, if it has run."""
        return self._found.get(job.key())

    def add(self, record: dict[str, Any]) -> None:
        """Append a record, so that it is on the disk when this returns."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._found[_job_of(record).key()] = record


def _job_of(record: Mapping[str, Any]) -> Job:
    names = ("num_workers", "seed", "lr", "steps")
    return Job(Row(**record["row"]), **{name: record[name] for name in names})


def tuning_job(row: Row, steps: int, lr: float) -> Job:
    """Return the job that measures a learning rate for a row: at one density for each method."""
    tuned = row if row.density == 1 else Row(row.method, TUNING_DENSITY)
    return Job(tuned, TUNING_WORKERS, TUNING_SEED, lr, steps // 2)


def tried(row: Row, steps: int, records: Records) -> dict[float, float]:
    """Return the loss of each learning rate of the grid that has been measured, infinity if NaN."""
    found = {lr: records.get(tuning_job(row, steps, lr)) for lr in GRID}
    losses = {lr: record["loss"] for lr, record in found.items() if record is not None}
    return {lr: loss if math.isfinite(loss) else math.inf for lr, loss in losses.items()}


def lr_to_try(row: Row, steps: int, records: Records) -> float | None:
    """Return the next learning rate to measure; None once the best one lies between two others.

    The three in the middle of the grid come first, and then those beyond the best, while there are
    any.
    """
    losses = tried(row, steps, records)
    untried = [lr for lr in GRID[_FIRST_TRIED] if lr not in losses]
    if untried:
        return untried[0]
    place = GRID.index(min(losses, key=losses.__getitem__))
    beside = GRID[max(0, place - 1) : place + 2]
    return next((lr for lr in beside if lr not in losses), None)


def best_lr(row: Row, steps: int, records: Records) -> float | None:
    """Return a row's learning rate; None until it is known."""
    if lr_to_try(row, steps, records) is not None:
        return None
    losses = tried(row, steps, records)
    return min(losses, key=losses.__getitem__)


def missing(steps: int, records: Records) -> Iterator[Job]:
    """Yield the jobs that have not run, each once the one before it has: first the tuning."""
    for row in ROWS:
        while (lr := lr_to_try(row, steps, records)) is not None:
            yield tuning_job(row, steps, lr)
    for seed, num_workers, row in itertools.product(SEEDS, WORKERS, ROWS):
        tuned = best_lr(row, steps, records)
        assert tuned is not None
        job = Job(row, num_workers, seed, tuned, steps)
        if records.get(job) is None:
            yield job


@app.command()
def adamw(
    output: Annotated[Path, typer.Option(help="file of records, JSON lines")] = RESULTS,
    steps: Annotated[
        int, typer.Option(help="of a training; the tuning takes half of them")
    ] = STEPS,
    table: Annotated[bool, typer.Option("--table", help="only print what is there")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="the table as Markdown")] = False,
) -> None:
    """Train all rows that are missing, then print the table."""
    with clear_errors():
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        records = Records(output)
        for job in [] if table else missing(steps, records):
            records.add(train(job))
        for title, lines in (
            (f"{steps} steps", tabulate(steps, records)),
            ("loss by learning rate, half the steps", searched(steps, records)),
        ):
            show(title, lines, markdown=markdown)


def show(title: str, lines: list[list[str]], *, markdown: bool) -> None:
    """Print a table whose first line is its heading."""
    if markdown:
        rule = [":---", *["---:"] * (len(lines[0]) - 1)]
        cells = [lines[0], rule, *lines[1:]]
        print(f"{title}:\n", *(f"| {' | '.join(line)} |" for line in cells), "", sep="\n")
        return
    table = Table(*lines[0], title=title)
    for line in lines[1:]:
        table.add_row(*line)
    console.print(table)


def searched(steps: int, records: Records) -> list[list[str]]:
    """Return a heading and a line per method: the loss at each learning rate that was tried."""
    lines = [["method", *(f"{lr:g}" for lr in GRID)]]
    for method, row in {row.method: row for row in ROWS}.items():
        losses = tried(row, steps, records)
        if losses:
            texts = (f"{losses[lr]:.3f}" if lr in losses else "-" for lr in GRID)
            lines.append([method, *texts])
    return lines


def tabulate(steps: int, records: Records) -> list[list[str]]:
    """Return a heading and a line per way to train that has a record.

    Losses are nats per character, bytes those of a worker's own message; mean and standard
    deviation are over the seeds, differences from dense are taken seed by seed.
    """
    heads = [f"loss, {n} workers" for n in WORKERS] + [f"minus dense, {n} workers" for n in WORKERS]
    lines = [["way to train", "density", "seeds", "lr", *heads, "bytes per step", "fewer bytes"]]
    dense = [finals(Row("dense"), n, steps, records) for n in WORKERS]
    for row in ROWS:
        cells = [finals(row, n, steps, records) for n in WORKERS]
        found = [record for cell in cells for record in cell.values()]
        if not found:
            continue
        num_bytes = statistics.fmean(record["bytes_per_step"] for record in found)
        gaps = [
            [r["loss"] - other[seed]["loss"] for seed, r in cell.items() if seed in other]
            for cell, other in zip(cells, dense, strict=True)
        ]
        lines.append(
            [
                row.method + (f", warm-up over {row.warm_up:.0%} of the steps" * bool(row.warm_up)),
                "-" if row.density == 1 else f"{100 * row.density:g} %",
                "+".join(str(len(cell)) for cell in cells),
                f"{found[0]['lr']:g}",
                *(spread([r["loss"] for r in cell.values()]) for cell in cells),
                *(spread(gap) for gap in gaps),
                bytes_text(round(num_bytes)),
                times_text(FLOAT_BYTES * found[0]["parameters"] / num_bytes),
            ]
        )
    return lines


def finals(row: Row, num_workers: int, steps: int, records: Records) -> dict[int, dict[str, Any]]:
    """Return a row's records for the table, by seed."""
    lr = best_lr(row, steps, records)
    if lr is None:
        return {}
    job = Job(row, num_workers, 0, lr, steps)
    found = {seed: records.get(replace(job, seed=seed)) for seed in SEEDS}
    return {seed: record for seed, record in found.items() if record is not None}


def spread(values: list[float]) -> str:
    """Return the mean and the standard deviation as text."""
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.3f}"


if __name__ == "__main__":
    run(app)
