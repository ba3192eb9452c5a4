"""The main job: train what a scenario names, predict it elsewhere, keep everything in a folder."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from dgc_topo.experiments.jobs import plan_jobs
from dgc_topo.experiments.place import Place
from dgc_topo.experiments.prediction import num_predictions, predict
from dgc_topo.experiments.scenario import Scenario, ScenarioError, parse_scenario
from dgc_topo.experiments.scenario.load import read_scenario
from dgc_topo.experiments.shipped import scenario_path
from dgc_topo.experiments.workloads import workloads_of_runs, workloads_of_scenario
from dgc_topo.plugins import is_file
from dgc_topo.records.folder import ResultsFolder
from dgc_topo.records.measurement import Measurement
from dgc_topo.records.room import check_room
from dgc_topo.tables.keys import with_keys
from dgc_topo.topology import Topology
from dgc_topo.training.events import Event, Finished
from dgc_topo.training.job import GLOO, Job
from dgc_topo.training.settings import TrainSection
from dgc_topo.training.topologies import TopologyChoice
from dgc_topo.workers import Hosts
from dgc_topo.workers.lab import Lab


class Observer(Protocol):
    """Told how far an experiment is."""

    def moved(self, folder: Path, aside: Path) -> None:
        """Earlier results at the place of new ones have been renamed."""

    def plan(self, jobs: list[Job], left_out: list[str]) -> None:
        """What is going to be trained, and what is not and why."""

    def event(self, event: Event) -> None:
        """Something happened in a run."""

    def plan_predictions(self, total: int) -> None:
        """How many records are going to be predicted."""

    def predicted(self) -> None:
        """One more record was predicted."""


Runner = Callable[[list[Job], Callable[[Event], None]], None]


@dataclass(frozen=True, slots=True)
class Part:
    """The part of a scenario with one topology and, unless None, one density and world size.

    Attributes:
        topology: One of the scenario's, or another.
        density: Fraction of the elements that is sent.
        world_size: Number of ranks that train.
    """

    topology: Topology
    density: float | None = None
    world_size: int | None = None

    def of(self, scenario: Scenario) -> Scenario:
        """Return that part of *scenario*.

        Raises:
            ScenarioError: if the density or the world size makes no sense there.
        """
        choice = TopologyChoice(name=self.topology.name, options=self.topology.plain_options)
        compression = scenario.compression
        if self.density is not None:
            try:
                compression = with_keys(compression, {"densities": (self.density,)}, "compression")
                if scenario.train is not None:
                    compression.check_warm_up(scenario.train.epochs)
            except ValueError as error:
                raise ScenarioError(f"--density {self.density:g}: {error}") from error
        changed = {"topologies": (choice,), "compression": compression}
        return scenario.model_copy(update={**changed, "train": self._train_of(scenario)})

    def _train_of(self, scenario: Scenario) -> TrainSection | None:
        if self.world_size is None or scenario.train is None:
            return scenario.train
        if scenario.ladder is not None:
            raise ScenarioError("--world-size: a [ladder] has world sizes of its own")
        try:
            self.topology.schedule(self.world_size)
        except ValueError as error:
            raise ScenarioError(f"--world-size {self.world_size}: {error}") from error
        return scenario.train.model_copy(update={"world_size": self.world_size})

    @property
    def options(self) -> tuple[str, ...]:
        """Options of a command that take this part, from whatever folder."""
        name = self.topology.name
        words = ["--topology", str(Path(name).absolute()) if is_file(name) else name]
        for key, value in self.topology.plain_options.items():
            words += ["--option", f"{key}={value}"]
        if self.density is not None:
            words += ["--density", repr(self.density)]
        if self.world_size is not None:
            words += ["--world-size", str(self.world_size)]
        return tuple(words)


def run_scenario(
    path: str | Path,
    output: str | Path | None,
    observer: Observer,
    *,
    train: bool = True,
    part: Part | None = None,
    limit_s: float = math.inf,
) -> ResultsFolder:
    """Run a scenario on local worker processes.

    Every record is on disk as soon as it is made; what an interrupt leaves can be reported.  What
    fails before the first record leaves earlier results where they were.  A ladder goes on where
    it was left: runs whose records are there are not run again.

    Args:
        path: The scenario file, or the name of one that comes with the package.
        output: Results folder; ``results/NAME`` by default.
        observer: Told of progress.
        train: False leaves out the training, for scenarios that describe their workloads.
        part: The part of the scenario that is wanted; all of it by default.
        limit_s: Begin no run of a ladder after so many seconds.

    Raises:
        ValueError: if no scenario that comes with the package has that name.
        ScenarioError: if the scenario is wrong, or has nothing to do without training.
        ResultsError: if there is no room for results; said before anything is done.
        LaunchError: if a worker fails.
        LabError: if the scenario names a lab that this machine cannot build; said before anything
            else is done.
    """
    path = scenario_path(path)
    text = read_scenario(path)
    scenario = parse_scenario(text, str(path), path.parent)
    scenario = part.of(scenario) if part else scenario
    if not train and not (scenario.simulate and scenario.simulate.workloads):
        raise ScenarioError(
            f"{path}: has no [[simulate.workloads]], so there is nothing to predict without "
            "training; use 'dgc-topo compare', which measures the workload first"
        )
    jobs, left_out = plan_jobs(scenario) if scenario.train and train else ([], [])
    if not (jobs or (scenario.simulate and scenario.simulate.workloads)):
        raise ScenarioError(f"{path}: nothing to do: {_why_nothing(scenario, left_out)}")
    command = ("train", *part.options) if part else ("compare" if train else "simulate",)
    place = Place.of(path, text, scenario, output, command)
    if jobs:
        _check_options(path, jobs[0].train)
    if scenario.ladder:
        return _run_ladder(place, jobs, observer, limit_s)
    check_room(place.folder, path)
    with _hosts(scenario if train else None) as hosts:
        folder = place.open(observer.moved)
        if jobs:
            observer.plan(jobs, left_out)
        with folder.or_as_it_was(observer.moved):
            measured = collect(jobs, partial(_launch, hosts), folder, observer)
    with folder.or_as_it_was(observer.moved):
        finish(scenario, measured, folder, observer)
    return folder


def _check_options(path: Path, train: TrainSection) -> None:
    """Refuse options that no model or task takes, before anything is touched.

    Raises:
        ScenarioError: naming the option.
    """
    if train.emulates or not train.options:
        return
    from dgc_topo.training.models import check_task_options  # noqa: PLC0415  # takes torch

    try:
        check_task_options(train.model, train.options)
    except ValueError as error:
        raise ScenarioError(f"{path}: train.options: {error}") from error


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
    from dgc_topo.training.launch import launch  # noqa: PLC0415  # predicting needs no workers

    launch(jobs, listen, hosts)


class _OutOfTimeError(Exception):
    """The time for this part of a ladder is over."""


def _run_ladder(place: Place, jobs: list[Job], observer: Observer, limit_s: float) -> ResultsFolder:
    """Run what is missing of a ladder, as far as the time allows."""
    folder = place.resume(observer.moved, [job.key for job in jobs])
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

    with folder.or_as_it_was(observer.moved):
        collect(missing, run_in_time, folder, observer)
    folder.close()
    return folder


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
    """Predict everything on the scenario's networks."""
    # Of DDP's all-reduce there is no schedule to simulate.
    known = [record for record in measured if record.topology != GLOO]
    runs = [
        replace(run, topology=scenario.own(run.topology))
        for run in workloads_of_runs(known, scenario.simulate)
    ]
    workloads = [*workloads_of_scenario(scenario), *runs]
    observer.plan_predictions(num_predictions(scenario, len(workloads)))
    for record in predict(scenario, workloads, observer.predicted):
        folder.append(record)
