"""Survival of one training whose workers are killed and stopped at random.

Run ``python -m benchmarks.survival``: 200 faults, one every 3 s or so, in a training of 4 workers.
It ends with an error unless the training ends with the bits of the same training without faults.
``--faults 5`` is a short version.
"""

from __future__ import annotations

import random
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.table import Table

from dgc_topo.cli.console import clear_errors, console, print_json
from dgc_topo.cli.progress import counting
from dgc_topo.cli.streams import run
from dgc_topo.experiments.jobs import plan_jobs
from dgc_topo.experiments.scenario import parse_scenario
from dgc_topo.records.measurement import Measurement
from dgc_topo.training.checkpoints.keeping import Keeping
from dgc_topo.training.job import Job
from dgc_topo.training.launch import Event, Finished, Lost, Started, StepDone, launch
from dgc_topo.workers.forks import ForkedLoopback

SCENARIO = """
name = "survival"
seed = 1
[[topologies]]
name = "ring"
[train]
dataset = "fashion-mnist-subset"
model = "mlp"
world_size = 4
batch_size_per_worker = 8
epochs = {epochs}
max_steps_per_epoch = {steps}
learning_rate = 0.02
learning_rate_decay = "cosine"
checkpoint_every = {every}
[compression]
densities = [0.01]
warm_up = "none"
"""
STEPS_PER_EPOCH = 100
_SIGNALS = signal.SIGKILL, signal.SIGSTOP
_AGAIN_S = 0.05
_STEPS_PER_FAULT = 60

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class SurvivalError(RuntimeError):
    """A training that did not survive as it should."""


@dataclass(slots=True)
class Fault:
    """One fault, and the seconds after it until it was noticed, and until training went on.

    Attributes:
        number: Signal that a worker got.
        at_s: Time of it.
        detect_s: Seconds until it was noticed; None if another fault's restart came first.
        back_s: Seconds until the next new step was done.
    """

    number: signal.Signals
    at_s: float
    detect_s: float | None = None
    back_s: float | None = None


@dataclass(slots=True)
class Faults:
    """A thread that sends a signal to a random worker now and then.

    Attributes:
        count: Number of signals to send.
        every_s: Mean seconds between two; each is from a half to one and a half of it.
        steps: Steps of the training; where it is fast, signals come early, so that all come.
        seed: Decides times, victims and signals.
        sent: Those that were sent, in order.
    """

    count: int
    every_s: float
    steps: int
    seed: int
    sent: list[Fault] = field(default_factory=list)
    _reached: int = 0
    _over: bool = False
    _early: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> None:
        """Send the signals."""
        draw = random.Random(self.seed)
        while len(self.sent) < self.count:
            self._early.wait(self.every_s * draw.uniform(0.5, 1.5))
            number = draw.choice(_SIGNALS)
            while not self._over and not self._send(number, draw):
                time.sleep(_AGAIN_S)
            if self._over:
                return

    def _send(self, number: signal.Signals, draw: random.Random) -> bool:
        victims = living_workers()
        if not victims:
            return False
        with self._lock:
            try:
                draw.choice(victims).send_signal(number)
            except psutil.NoSuchProcess:
                return False
            self.sent.append(Fault(number, time.monotonic()))
            self._hurry()
        return True

    def _hurry(self) -> None:
        """Let the next signal come at once if the training has done its share of the steps."""
        share = (len(self.sent) + 1) / (self.count + 1)
        if self._reached >= share * self.steps:
            self._early.set()
        else:
            self._early.clear()

    def note(self, event: Event) -> None:
        """Note in the faults what an event says about them."""
        now = time.monotonic()
        with self._lock:
            if isinstance(event, StepDone):
                self._reached = max(self._reached, event.step)
                self._hurry()
            for fault in self.sent:
                if fault.back_s is not None:
                    continue
                if isinstance(event, Lost):
                    fault.detect_s = fault.detect_s or now - fault.at_s
                elif isinstance(event, StepDone) and fault.detect_s is not None:
                    fault.back_s = now - fault.at_s

    def end(self) -> None:
        """Send no more."""
        self._over = True
        self._early.set()


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def living_workers() -> list[psutil.Process]:
    """Return the workers that this process has started, and that run."""
    found = []
    for server in psutil.Process().children():
        if not any("dgc_topo.workers.fork_server" in each for each in _command(server)):
            continue  # somebody else's, in a process that does other things, too
        for worker in server.children():
            try:
                if worker.status() not in {psutil.STATUS_ZOMBIE, psutil.STATUS_STOPPED}:
                    found.append(worker)
            except psutil.NoSuchProcess:
                continue
    return found


@dataclass(frozen=True, slots=True)
class Survived:
    """A training without faults, and the same with faults.

    Attributes:
        undisturbed: Record without.
        disturbed: Record with.
        faults: The faults.
        checkpoint_every: Steps between two checkpoints.
        duration_s: Seconds of the disturbed training.
    """

    undisturbed: Measurement
    disturbed: Measurement
    faults: Sequence[Fault]
    checkpoint_every: int
    duration_s: float

    def check(self, expected_faults: int) -> None:
        """Raise `SurvivalError` unless all faults came and nothing was lost."""
        if self.disturbed.parameters != self.undisturbed.parameters:
            raise SurvivalError(
                f"parameters {self.disturbed.parameters}, expected those of the undisturbed run, "
                f"{self.undisturbed.parameters}"
            )
        if self.disturbed.quality != self.undisturbed.quality:
            raise SurvivalError("other evaluations than in the undisturbed run")
        if len(self.faults) != expected_faults:
            raise SurvivalError(
                f"the training was over after {len(self.faults)} faults, expected "
                f"{expected_faults}: more --steps"
            )
        lost, most = self.disturbed.lost_steps, self.checkpoint_every * self.disturbed.restarts
        if lost is None or lost > most:
            raise SurvivalError(f"{lost} steps lost, expected at most {most}")

    def facts(self) -> dict[str, object]:
        """Return what the table shows."""
        record = self.disturbed
        kinds = {
            number.name: _seconds([fault for fault in self.faults if fault.number == number])
            for number in _SIGNALS
        }
        return {
            "faults": len(self.faults),
            "restarts": record.restarts,
            "steps": record.num_steps,
            "lost_steps": record.lost_steps,
            "checkpoint_every": self.checkpoint_every,
            "same_bits": record.parameters == self.undisturbed.parameters,
            "seconds": round(self.duration_s, 1),
            **kinds,
        }


def _seconds(faults: Sequence[Fault]) -> dict[str, float]:
    facts: dict[str, float] = {"count": len(faults)}
    for name in ("detect_s", "back_s"):
        found = [value for fault in faults if (value := getattr(fault, name)) is not None]
        if found:
            facts[f"{name}_median"] = round(statistics.median(found), 2)
            facts[f"{name}_worst"] = round(max(found), 2)
    return facts


def survive(count: int, every_s: float, steps: int, checkpoint_every: int, seed: int) -> Survived:
    """Train twice, without and with faults.

    Args:
        count: Number of faults.
        every_s: Mean seconds between two.
        steps: Number of training steps, rounded up to whole epochs.
        checkpoint_every: Steps between two checkpoints.
        seed: Of the faults.

    Raises:
        LaunchError: if the training does not survive.
    """
    epochs = -(-steps // STEPS_PER_EPOCH)
    steps = epochs * STEPS_PER_EPOCH
    text = SCENARIO.format(epochs=epochs, steps=STEPS_PER_EPOCH, every=checkpoint_every)
    (job,) = plan_jobs(parse_scenario(text, "survival", Path()))[0]
    with ForkedLoopback(["dgc_topo.training.loop"]) as hosts:
        undisturbed = _train(job, hosts, Faults(0, every_s, steps, seed))
        faults = Faults(count, every_s, steps, seed)
        began = time.monotonic()
        disturbed = _train(job, hosts, faults)
        took_s = time.monotonic() - began
    return Survived(undisturbed, disturbed, faults.sent, checkpoint_every, took_s)


def _train(job: Job, hosts: ForkedLoopback, faults: Faults) -> Measurement:
    records: list[Measurement] = []
    thread = threading.Thread(target=faults.run)
    with (
        tempfile.TemporaryDirectory() as folder,
        counting(
            console, f"{faults.count} faults, steps", job.train.epochs * STEPS_PER_EPOCH
        ) as bar,
    ):
        reached = 0

        def listen(event: Event) -> None:
            nonlocal reached
            faults.note(event)
            if isinstance(event, Started) and not thread.ident:
                thread.start()
            elif isinstance(event, StepDone) and event.step > reached:
                bar(event.step - reached)
                reached = event.step
            elif isinstance(event, Finished):
                records.append(event.measurement)

        keeping = Keeping(folder=Path(folder))
        try:
            # One fault may cost two restarts: the second if it hits a worker that is just starting.
            launch([job], listen, hosts, keeping, max_restarts=2 * faults.count)
        finally:
            faults.end()
            if thread.ident:
                thread.join()
    return records[0]


@app.command()
def survival(
    faults: Annotated[int, typer.Option(min=1, help="signals, SIGKILL or SIGSTOP")] = 200,
    every: Annotated[float, typer.Option(help="mean seconds between two")] = 3.0,
    steps: Annotated[int, typer.Option(help="of training; 0: enough for the faults")] = 0,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="steps")] = 20,
    seed: Annotated[int, typer.Option(help="of times, victims and signals")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    """Kill and stop workers of a training at random; compare it with an undisturbed one."""
    with clear_errors():
        found = survive(faults, every, steps or _STEPS_PER_FAULT * faults, checkpoint_every, seed)
        if as_json:
            print_json(found.facts())
        else:
            console.print(_table(found))
        found.check(faults)


def _table(found: Survived) -> Table:
    facts, record = found.facts(), found.disturbed
    table = Table("", *(number.name for number in _SIGNALS), "all")
    kinds = [_seconds([f for f in found.faults if f.number == number]) for number in _SIGNALS]
    kinds.append(_seconds(found.faults))
    rows = {
        "faults": "count",
        "seconds to notice, median": "detect_s_median",
        "worst": "detect_s_worst",
        "seconds to the next step, median": "back_s_median",
        "worst ": "back_s_worst",
    }
    for name, key in rows.items():
        table.add_row(name, *(f"{kind.get(key, '-')}" for kind in kinds))
    table.title = (
        f"{record.num_steps} steps in {facts['seconds']} s, {record.restarts} restarts, "
        f"{record.lost_steps} steps repeated (a checkpoint every {found.checkpoint_every}); "
        f"{'the same bits' if facts['same_bits'] else 'OTHER BITS'} as undisturbed"
    )
    return table


if __name__ == "__main__":
    run(app)
