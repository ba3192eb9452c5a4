"""The main job: train what a scenario names, predict it elsewhere, keep everything in a folder."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Protocol

from dgc_topo.lab import Lab
from dgc_topo.launch import Hosts
from dgc_topo.predict import num_predictions, predict
from dgc_topo.results.folder import ResultsFolder
from dgc_topo.results.measurement import Measurement
from dgc_topo.results.report import write_report
from dgc_topo.scenario import Scenario, ScenarioError, TopologyChoice, load_scenario
from dgc_topo.scenario.step import with_keys
from dgc_topo.topology import Topology
from dgc_topo.train.events import Event, Finished
from dgc_topo.train.job import GLOO, Job, plan_jobs
from dgc_topo.workloads import workloads_of_runs, workloads_of_scenario


class Observer(Protocol):
    """Told how far an experiment is."""

    def plan(self, jobs: list[Job], left_out: list[str]) -> None:
        """What is going to be trained, and what is not and why."""

    def event(self, event: Event) -> None:
        """Something happened in a run."""

    def plan_predictions(self, total: int) -> None:
        """How many records are going to be predicted."""

    def predicted(self) -> None:
        """One more record was predicted."""


Runner = Callable[[list[Job], Callable[[Event], None]], None]


def run_scenario(
    path: Path,
    output: Path | None,
    observer: Observer,
    *,
    train: bool = True,
    narrow: Callable[[Scenario], Scenario] = lambda scenario: scenario,
    limit_s: float = math.inf,
) -> ResultsFolder:
    """Run the scenario in the file *path* on local worker processes.

    Every record is on disk as soon as it is made; what an interrupt leaves can be reported.  A
    ladder goes on where it was left: runs whose records are there are not run again.

    Args:
        path: The scenario file.
        output: Results folder; ``results/NAME`` by default.
        observer: Told of progress.
        train: False leaves out the training, for scenarios that describe their workloads.
        narrow: Takes the part of the scenario that is wanted, see `narrowed`.
        limit_s: Begin no run of a ladder after so many seconds.

    Raises:
        ScenarioError: if the scenario is wrong, or has nothing to do without training.
        LaunchError: if a worker fails.
        LabError: if the scenario names a lab that this machine cannot build; said before anything
            else is done.
    """
    scenario = narrow(load_scenario(path))
    if not train and not (scenario.simulate and scenario.simulate.workloads):
        raise ScenarioError(
            f"{path}: has no [[simulate.workloads]], so there is nothing to predict without "
            "training; use 'dgc-topo compare', which measures the workload first"
        )
    jobs, left_out = plan_jobs(scenario) if scenario.train and train else ([], [])
    if not (jobs or (scenario.simulate and scenario.simulate.workloads)):
        raise ScenarioError(f"{path}: nothing to do: {_why_nothing(scenario, left_out)}")
    if scenario.ladder:
        return _climb(path, jobs, output, observer, limit_s)
    with _hosts(scenario if train else None) as hosts:
        folder = open_folder(path, scenario, output)
        if jobs:
            observer.plan(jobs, left_out)
        measured = collect(jobs, partial(_launch, hosts), folder, observer)
    finish(scenario, measured, folder, observer)
    return folder


def _why_nothing(scenario: Scenario, left_out: list[str]) -> str:
    if scenario.train is None:
        return "there is no [train]; use 'dgc-topo validate' for what is in [validate]"
    return "; ".join(left_out)


def _hosts(scenario: Scenario | None) -> AbstractContextManager[Hosts | None]:
    """Return where a scenario trains; None is this machine's loopback."""
    if scenario is None or scenario.train is None or scenario.lab is None:
        return nullcontext()
    return Lab(scenario.lab.spec(scenario.train.world_size))


def _launch(hosts: Hosts | None, jobs: list[Job], listen: Callable[[Event], None]) -> None:
    from dgc_topo.train.launch import launch  # noqa: PLC0415  # predicting needs no workers

    launch(jobs, listen, hosts)


class _OutOfTimeError(Exception):
    """The time for this part of a ladder is over."""


def _climb(
    path: Path,
    jobs: list[Job],
    output: Path | None,
    observer: Observer,
    limit_s: float,
) -> ResultsFolder:
    """Run what is missing of a ladder, as far as the time allows."""
    place, name = output or Path("results") / jobs[0].scenario, jobs[0].scenario
    text, keys = path.read_text(encoding="utf-8"), [job.key for job in jobs]
    folder = ResultsFolder.resume(place, text, name, keys)
    there = {record.job for record in folder.measurements()}
    missing = [job for job in jobs if job.key not in there]
    notes = [f"{len(there)} of {len(jobs)} runs, which are there already"] if there else []
    observer.plan(missing, notes)
    began_s = time.monotonic()

    def run_in_time(jobs: list[Job], listen: Callable[[Event], None]) -> None:
        def listen_in_time(event: Event) -> None:
            listen(event)
            over = time.monotonic() - began_s > limit_s
            if over and isinstance(event, Finished) and event.job < len(jobs) - 1:
                raise _OutOfTimeError

        with suppress(_OutOfTimeError):
            _launch(None, jobs, listen_in_time)

    collect(missing, run_in_time, folder, observer)
    folder.close()
    write_report(folder)
    return folder


def narrowed(topology: Topology, density: float | None) -> Callable[[Scenario], Scenario]:
    """Return a function that keeps one topology and, unless None, one density of a scenario."""

    def narrow(scenario: Scenario) -> Scenario:
        choice = TopologyChoice(name=topology.name, options=dict(topology.options))
        compression = scenario.compression
        if density is not None:
            try:
                compression = with_keys(compression, {"densities": (density,)}, "compression")
                if scenario.train is not None:
                    compression.check_warm_up(scenario.train.epochs)
            except ValueError as error:
                raise ScenarioError(f"--density {density:g}: {error}") from error
        return scenario.model_copy(update={"topologies": (choice,), "compression": compression})

    return narrow


def open_folder(path: Path, scenario: Scenario, output: Path | None) -> ResultsFolder:
    """Return a new results folder for the scenario in *path*."""
    place = output or Path("results") / scenario.name
    return ResultsFolder.create(place, path.read_text(encoding="utf-8"), scenario.name)


def collect(
    jobs: list[Job], runner: Runner, folder: ResultsFolder, observer: Observer
) -> list[Measurement]:
    """Run the jobs, keep each record as soon as it is there, and return them."""
    records: list[Measurement] = []

    def listen(event: Event) -> None:
        if isinstance(event, Finished):
            folder.append(event.measurement)
            records.append(event.measurement)
        observer.event(event)

    if jobs:
        runner(jobs, listen)
    return records


def finish(
    scenario: Scenario, measured: list[Measurement], folder: ResultsFolder, observer: Observer
) -> None:
    """Predict everything on the scenario's networks, and write the report."""
    # Of DDP's all-reduce there is no schedule to simulate.
    known = [record for record in measured if record.topology != GLOO]
    workloads = [*workloads_of_scenario(scenario), *workloads_of_runs(known, scenario.simulate)]
    observer.plan_predictions(num_predictions(scenario, len(workloads)))
    for record in predict(scenario, workloads, observer.predicted):
        folder.append(record)
    write_report(folder)
