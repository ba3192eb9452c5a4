"""Progress bars: of experiments, of counted things, and of downloads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from dgc_topo.cli.outputs import moved_text
from dgc_topo.text import printable
from dgc_topo.units import bytes_text

if TYPE_CHECKING:
    from dgc_topo.training.job import Job
    from dgc_topo.training.launch import Event, Finished, Started

_LINE_EVERY_S = 10.0  # seconds between two lines, where there is no terminal for a bar


class _Lines:
    """Lines now and then, where there is no terminal for a bar."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next_s = time.monotonic() + _LINE_EVERY_S

    def say(self, text: str) -> None:
        """Print a line if the last one was long ago, and a terminal shows no bar."""
        if not self._console.is_terminal and time.monotonic() >= self._next_s:
            self._console.print(text, soft_wrap=True, markup=False)
            self._next_s = time.monotonic() + _LINE_EVERY_S


@contextmanager
def counting(console: Console, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar while inside; yield a function that takes the number of things newly done."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    lines, done = _Lines(console), 0
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)

        def advance(count: int) -> None:
            nonlocal done
            done += count
            progress.advance(task, count)
            lines.say(f"{what}: {done:,} of {total:,} so far")

        yield advance


@contextmanager
def simulating(console: Console) -> Iterator[None]:
    """Say while inside that a simulation takes longer than some seconds, and how far it is.

    Args:
        console: Console of the standard error, so that results can be piped.
    """
    from dgc_topo.simulation.watching import watching

    text = TextColumn("simulating, steps")
    columns = (text, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    shown = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
        task = progress.add_task("", total=None, visible=False)
        lines = _Lines(console)

        def report(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total, visible=True)
            lines.say(f"simulating: {done:,} of {total:,} steps so far")

        with watching(report):
            yield


@contextmanager
def downloading(console: Console) -> Iterator[Callable[[str, int, int | None], None]]:
    """Show a bar per file while inside; yield a function of file name, bytes done and total."""
    columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        tasks: dict[str, TaskID] = {}
        lines = _Lines(console)

        def report(what: str, done: int, total: int | None) -> None:
            of = f" of {bytes_text(total)}" if total else ""
            lines.say(f"{what}: {bytes_text(done)}{of} so far")
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done, total=total)

        yield report


class ProgressBars:
    """Bars of an experiment: all runs, the steps of the current run, and then the predictions.

    If the output is no terminal, a line is printed for each finished run, and now and then one says
    how far a run or the predictions are.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._lines = _Lines(console)
        self._num_predictions = self._num_predicted = 0
        self._started_s = 0.0
        self._jobs: list[Job] = []
        self._runs: TaskID | None = None
        self._steps: TaskID | None = None
        self._predictions: TaskID | None = None

    def __enter__(self) -> Self:
        self._started_s = time.monotonic()
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._progress.stop()
        if kind is None:
            elapsed = time.monotonic() - self._started_s
            self._console.print(f"done in {elapsed:.0f} s")

    def moved(self, folder: Path, aside: Path) -> None:
        """Print that earlier results have been renamed."""
        self._console.print(moved_text(folder, aside), soft_wrap=True)

    def plan(self, jobs: list[Job], notes: list[str]) -> None:
        """Show a bar over the runs, and print the notes about them."""
        self._jobs = jobs
        for line in notes:
            self._console.print(line, soft_wrap=True)
        processes = sorted({job.num_processes for job in jobs})
        where = f"on {' or '.join(map(str, processes))} processes" if jobs else ""
        self._runs = self._progress.add_task("training runs", total=len(jobs), note=where)
        self._steps = self._progress.add_task("starting workers", total=None, note="")

    def event(self, event: Event) -> None:
        """Move the bars; print a line when a run ends."""
        from dgc_topo.training.launch import Evaluated, Finished, Lost, Started, StepDone

        if self._steps is None or self._runs is None:
            return
        job = self._jobs[event.job]
        label = printable(job.label)
        if isinstance(event, StepDone):
            note = "emulated" if job.train.emulates else f"loss {event.loss:.3f}"
            self._progress.update(
                self._steps,
                description=label,
                completed=event.step,
                total=event.total_steps,
                note=note,
            )
            self._lines.say(f"{label}: step {event.step:,} of {event.total_steps:,}, {note}")
        elif isinstance(event, Started):
            self._print_started(event, label)
        elif isinstance(event, Evaluated):
            note = f"epoch {event.epoch}: {event.metric} {event.value:.4g}"
            self._progress.update(self._runs, note=note)
        elif isinstance(event, Lost):
            then = f"restart {event.restart} of {event.max_restarts}"
            then = "the others go on" if event.restart is None else then
            self._console.print(f"{printable(event.text)}: {then}", soft_wrap=True)
        elif isinstance(event, Finished):
            self._progress.advance(self._runs)
            self._print_finished(event, label)

    def _print_started(self, event: Started, label: str) -> None:
        for line in event.refused:
            self._console.print(f"checkpoint left out: {line}", soft_wrap=True)
        if event.step:
            self._console.print(f"going on with {label} after step {event.step}")

    def _print_finished(self, event: Finished, label: str) -> None:
        record = event.measurement
        quality = f"{record.quality.metric} {record.quality.final:.4g}, " if record.quality else ""
        self._console.print(
            f"trained {label}: {quality}{record.step_time_s * 1e3:.1f} ms/step, "
            f"{record.wire_bytes_per_step / 1e3:.1f} kB/step on the wire",
        )

    def plan_predictions(self, total: int) -> None:
        """Show a bar over the predictions."""
        if self._steps is not None:
            self._progress.update(self._steps, visible=False)
        self._num_predictions = total
        if total:
            self._predictions = self._progress.add_task("predictions", total=total, note="")

    def predicted(self) -> None:
        """Move the bar over the predictions."""
        self._num_predicted += 1
        if self._predictions is not None:
            self._progress.advance(self._predictions)
        done, total = self._num_predicted, self._num_predictions
        self._lines.say(f"predictions: {done:,} of {total:,} so far")


class SweepBar:
    """Bar of a sweep; if the output is no terminal, a line now and then.

    Attributes:
        total: Number of predictions of the sweep.
        done: Number of those that are there.
    """

    def __init__(self, console: Console) -> None:
        self.total = self.done = 0
        self._console, self._lines = console, _Lines(console)
        columns = (TextColumn("predictions"), BarColumn(), MofNCompleteColumn())
        times = (TimeElapsedColumn(), TextColumn("left:"), TimeRemainingColumn())
        self._progress = Progress(
            *columns, *times, console=console, disable=not console.is_terminal
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def moved(self, folder: Path, aside: Path) -> None:
        """Print where earlier results are now."""
        self._console.print(moved_text(folder, aside), soft_wrap=True)

    def begin(self, total: int, done: int) -> None:
        """Show the bar; say what is there already."""
        self.total, self.done = total, done
        if done:
            self._console.print(f"{done:,} of {total:,} predictions are there already")
        self._task = self._progress.add_task("", total=total, completed=done)

    def advance(self, count: int) -> None:
        """Move the bar, or print a line if the last one was long ago."""
        self.done += count
        if self._task is not None:
            self._progress.update(self._task, completed=self.done)
        self._lines.say(f"{self.done:,} of {self.total:,} predictions")
