"""Logs of a scenario's runs, in the results folder, from the events that runs send."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from dgc_topo.logs.callbacks import Callbacks, EvaluationInfo, StepInfo
from dgc_topo.logs.opening import open_logs
from dgc_topo.records.room import LOGS
from dgc_topo.training.job import Job
from dgc_topo.training.launch import Evaluated, Event, Finished, StepDone

_LONGEST = 120  # characters; file systems take 255


def log_folder(results: Path, job: Job) -> Path:
    """Return the folder of a run's logs, named by what the run is and its fingerprint."""
    words = re.sub(r"[^\w.=]+", "-", job.label).strip("-.")[:_LONGEST]
    return results / LOGS / f"{words}-{job.key[:8]}"


class RunLogs:
    """Logs of several runs, one after the other; each step is logged once.

    A run that goes on from a checkpoint after the loss of a worker does some steps again, to the
    same bits: only the first time counts.

    Args:
        jobs: All runs; an event's job is its place here.
        results: The results folder.
    """

    def __init__(self, jobs: Sequence[Job], results: Path) -> None:
        self._jobs, self._results = jobs, results
        self._open: dict[int, Callbacks] = {}
        self._step: dict[int, int] = {}
        self._epoch: dict[int, float] = {}

    def __enter__(self) -> Self:
        """Open the first run's, so that one that cannot be opened is said before it trains.

        Raises:
            ValueError: if a log cannot be opened.
        """
        if self._jobs and self._jobs[0].train.log:
            self._of(0, self._jobs[0])
        return self

    def __exit__(self, *_: object) -> None:
        for callbacks in self._open.values():
            callbacks.close()
        self._open = {}

    def event(self, event: Event) -> None:
        """Log what an event says.

        Raises:
            ValueError: if a log cannot be opened.
        """
        job = self._jobs[event.job]
        if not job.train.log:
            return
        if isinstance(event, StepDone) and event.step > self._step.get(event.job, 0):
            self._step[event.job] = event.step
            self._of(event.job, job).on_step(
                StepInfo(
                    step=event.step,
                    loss=event.loss,
                    epoch=event.epoch,
                    learning_rate=event.learning_rate,
                    density=event.density,
                    bytes_sent=event.bytes_sent,
                    step_s=event.step_s,
                )
            )
        elif isinstance(event, Evaluated) and event.epoch > self._epoch.get(event.job, 0):
            self._epoch[event.job] = event.epoch
            self._of(event.job, job).on_evaluation(
                EvaluationInfo(
                    step=self._step.get(event.job, 0),
                    metric=event.metric,
                    value=event.value,
                    epoch=event.epoch,
                )
            )
        elif isinstance(event, Finished) and event.job in self._open:
            self._open.pop(event.job).close()

    def _of(self, number: int, job: Job) -> Callbacks:
        if number not in self._open:
            folder = log_folder(self._results, job)
            self._open[number] = open_logs(
                job.train.log,
                folder,
                name=folder.name,
                project=job.scenario,
                config=job.model_dump(mode="json"),
                code_folder=job.train.folder,
            )
        return self._open[number]
