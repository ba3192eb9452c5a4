"""Running a scenario: train its jobs, predict other networks, keep all records in a folder."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from dgc_topo.experiments.continuation import (
    Start,
    earlier_in,
    in_order,
    jobs_beside,
    refuse_others,
    results_folder,
    start_of,
)
from dgc_topo.experiments.jobs import Part, check_trainings, plan_jobs
from dgc_topo.experiments.prediction import num_predictions, predict
from dgc_topo.experiments.run_logs import RunLogs
from dgc_topo.experiments.scenario import Scenario, ScenarioError, parse_scenario
from dgc_topo.experiments.scenario.load import kept_of, read_scenario
from dgc_topo.experiments.shipped import scenario_path
from dgc_topo.experiments.training_cases import cases_of_runs, cases_of_scenario
from dgc_topo.records.folder import ResultsFolder
from dgc_topo.records.measurement import Measurement
from dgc_topo.records.room import SCENARIO, OnMoved, check_room
from dgc_topo.training.checkpoints.keeping import Keeping, forget
from dgc_topo.training.job import GLOO, Job
from dgc_topo.training.launch import Event, Finished, launch
from dgc_topo.workers import Hosts
from dgc_topo.workers.lab import Lab


class Observer(Protocol):
    """Listener that is told about an experiment's progress."""

    def moved(self, folder: Path, aside: Path) -> None:
        """Note that earlier results in the same place have been renamed."""

    def plan(self, jobs: list[Job], notes: list[str]) -> None:
        """Note the runs to come, and lines about them: what is left out, or goes on."""

    def event(self, event: Event) -> None:
        """Note an event of a run."""

    def plan_predictions(self, total: int) -> None:
        """Note the number of records that are going to be predicted."""

    def predicted(self) -> None:
        """Note that one more record was predicted."""


class Silent:
    """Observer that ignores everything."""

    def moved(self, folder: Path, aside: Path) -> None:
        """Ignore it."""

    def plan(self, jobs: list[Job], notes: list[str]) -> None:
        """Ignore it."""

    def event(self, event: Event) -> None:
        """Ignore it."""

    def plan_predictions(self, total: int) -> None:
        """Ignore it."""

    def predicted(self) -> None:
        """Ignore it."""


Runner = Callable[[list[Job], Callable[[Event], None]], None]


@dataclass(frozen=True, slots=True)
class Place:
    """Scenario file, its content, and the place of its results.

    Attributes:
        path: The scenario file.
        text: Content of the file.
        scenario: Scenario that the text describes.
        output: Folder for the results; ``results/NAME`` by default.
        command: Command that runs the scenario, with its options.
    """

    path: Path
    text: str
    scenario: Scenario
    output: str | Path | None
    command: Sequence[str]

    @property
    def folder(self) -> Path:
        """Folder for the results."""
        return results_folder(self.scenario, self.output)

    def open(self, told: OnMoved, keep: Sequence[str] | None = None) -> ResultsFolder:
        """Return a folder without records, or with only the records of the jobs to *keep*.

        Args:
            told: Called with the old and the new name of a folder that had to be renamed.
            keep: Fingerprints of the jobs.
        """
        make = ResultsFolder.create
        if keep is not None:
            make = partial(ResultsFolder.resume, jobs=keep)
        kept = kept_of(self.text, self.scenario, self.path.parent)
        folder = make(
            self.folder,
            kept.text,
            self.scenario.name,
            command=("dgc-topo", self.command[0], SCENARIO, *self.command[1:]),
            scenario=self.path,
            files=kept.files,
        )
        if folder.aside is not None:
            told(self.folder, folder.aside)
        return folder


def run_scenario(  # noqa: PLR0913 - those after the third have names
    path: str | Path,
    output: str | Path | None,
    observer: Observer,
    *,
    train: bool = True,
    part: Part | None = None,
    limit_s: float = math.inf,
    resume: bool = False,
    max_restarts: int = 0,
) -> ResultsFolder:
    """Run a scenario on local worker processes.

    Every record is on disk as soon as it is made, so that an interrupted run can be reported.  A
    failure before the first record leaves earlier results in place.  What was interrupted
    continues, unless it is a part of a scenario: runs that have records are not run again, and one
    that has a checkpoint goes on from there.

    Args:
        path: Scenario file, or the name of one that comes with the package.
        output: Results folder; ``results/NAME`` by default.
        observer: Is told about the progress.
        train: False leaves out the training, for scenarios that describe their workloads.
        part: Part of the scenario to run; all of it by default.
        limit_s: Seconds after which no further run of a ladder begins.
        resume: True to go on with an interrupted part, too; False begins it anew.
        max_restarts: How often lost workers are replaced at most, see `launch`.

    Raises:
        ValueError: if no scenario that comes with the package has that name.
        ScenarioError: if the scenario is wrong, or has nothing to do without training.
        ResultsError: if there is no room for results; raised before anything is done.
        LaunchError: if a worker fails.
        LabError: if this machine cannot build the scenario's lab; raised before anything else is
            done.
    """
    path = scenario_path(path)
    text = read_scenario(path)
    whole = parse_scenario(text, str(path), path.parent)
    scenario = part.of(whole) if part else whole
    if not train and not (scenario.simulate and scenario.simulate.workloads):
        raise ScenarioError(
            f"{path}: has no [[simulate.workloads]], so there is nothing to predict without "
            "training; use 'dgc-topo compare', which measures the workload first"
        )
    jobs, left_out = plan_jobs(scenario) if scenario.train and train else ([], [])
    if not (jobs or (scenario.simulate and scenario.simulate.workloads)):
        other = "validate" if scenario.validation else "sweep"
        why = f"there is no [train]; use 'dgc-topo {other}' for what is in [{other}]"
        why = why if scenario.train is None else "; ".join(left_out)
        raise ScenarioError(f"{path}: nothing to do: {why}")
    command = ("train", *part.options) if part else ("compare" if train else "simulate",)
    place = Place(path, text, scenario, output, command)
    check_trainings(str(path), jobs)
    if scenario.ladder:
        return _run_ladder(place, jobs, observer, limit_s, max_restarts)
    check_room(place.folder, path)
    wanted = resume or part is None
    beside = jobs_beside(whole, jobs) if part else []
    start = start_of(place.folder, scenario, jobs, wanted=wanted, insists=resume, beside=beside)
    return _run(place, jobs, start.with_left_out(left_out), observer, max_restarts)


def _run(
    place: Place, jobs: list[Job], start: Start, observer: Observer, max_restarts: int
) -> ResultsFolder:
    """Run what is missing, and predict."""
    with _hosts(place.scenario if start.missing else None) as hosts:
        folder = place.open(observer.moved, start.keep)
        keeping = Keeping(folder=place.folder.absolute(), resume=start.keep is not None)
        if jobs:
            observer.plan(start.missing, list(start.notes))
        with folder.restored_on_error(observer.moved):
            runner = partial(launch, hosts=hosts, keeping=keeping, max_restarts=max_restarts)
            collect(start.missing, runner, folder, observer, keeping)
    if not start.is_over:
        with folder.restored_on_error(observer.moved):
            finish(place.scenario, in_order(folder, jobs), folder, observer, start.beside)
    return folder


def _hosts(scenario: Scenario | None) -> AbstractContextManager[Hosts | None]:
    """Return the hosts on which a scenario trains; None is this machine's loopback."""
    if scenario is None or scenario.train is None or scenario.lab is None:
        return nullcontext()
    return Lab(scenario.lab.spec(scenario.train.world_size))


class _OutOfTimeError(Exception):
    """The time for this part of a ladder is over."""


def _run_ladder(
    place: Place, jobs: list[Job], observer: Observer, limit_s: float, max_restarts: int
) -> ResultsFolder:
    """Run the missing jobs of a ladder, until the time limit."""
    folder = place.open(observer.moved, keep=[job.key for job in jobs])
    earlier = earlier_in(place.folder, jobs)
    refuse_others(place.folder, earlier)
    keeping = Keeping(folder=place.folder.absolute(), resume=True)
    missing = earlier.missing(jobs)
    observer.plan(missing, earlier.notes(jobs))
    began_s = time.monotonic()

    def run_in_time(jobs: list[Job], listen: Callable[[Event], None]) -> None:
        def listen_in_time(event: Event) -> None:
            listen(event)
            over = time.monotonic() - began_s > limit_s
            if over and isinstance(event, Finished) and event.job < len(jobs) - 1:
                raise _OutOfTimeError

        with suppress(_OutOfTimeError):
            launch(jobs, listen_in_time, keeping=keeping, max_restarts=max_restarts)

    with folder.restored_on_error(observer.moved):
        collect(missing, run_in_time, folder, observer, keeping)
    folder.close()
    return folder


def collect(
    jobs: list[Job],
    runner: Runner,
    folder: ResultsFolder,
    observer: Observer,
    keeping: Keeping | None = None,
) -> list[Measurement]:
    """Run the jobs, write each record at once, and return all.

    A run's checkpoints in *keeping* go once its record is on disk.
    """
    records: list[Measurement] = []

    def listen(event: Event) -> None:
        if isinstance(event, Finished):
            folder.append(event.measurement)
            records.append(event.measurement)
            if keeping is not None:
                forget(keeping, jobs[event.job])
        logs.event(event)
        observer.event(event)

    with RunLogs(jobs, folder.path) as logs:
        if jobs:
            runner(jobs, listen)
    return records


def finish(
    scenario: Scenario,
    measured: list[Measurement],
    folder: ResultsFolder,
    observer: Observer,
    beside: Sequence[Job] = (),
) -> None:
    """Predict all runs and workloads on the scenario's networks; earlier predictions go.

    Args:
        scenario: The scenario, or a part of it.
        measured: All runs in the folder.
        folder: The results.
        observer: Is told about the progress.
        beside: Jobs of *measured* that are in no part of the scenario.
    """
    folder.keep_measured()
    # DDP's all-reduce has no schedule to simulate.
    known = [record for record in measured if record.topology != GLOO]
    topologies = [*scenario.topologies, *(job.topology for job in beside)]
    rules = [*scenario.rules, *(job.rule for job in beside)]
    runs = cases_of_runs(known, scenario.simulate, topologies, rules)
    workloads = [*cases_of_scenario(scenario), *runs]
    observer.plan_predictions(num_predictions(scenario, len(workloads)))
    for record in predict(scenario, workloads, observer.predicted):
        folder.append(record)
