"""Going on with interrupted results: which runs are there, and which are still to be run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from dgc_topo.experiments.jobs import Part, plan_jobs
from dgc_topo.experiments.prediction import num_predictions
from dgc_topo.experiments.scenario import Scenario, parse_scenario
from dgc_topo.experiments.scenario.load import read_scenario
from dgc_topo.experiments.shipped import scenario_path
from dgc_topo.experiments.training_cases import cases_of_scenario
from dgc_topo.records.folder import ResultsFolder
from dgc_topo.records.measurement import Measurement
from dgc_topo.records.records import MEASUREMENTS, ResultsError, load_measurements
from dgc_topo.records.room import CHECKPOINTS
from dgc_topo.training.checkpoints.errors import CheckpointError
from dgc_topo.training.checkpoints.keeping import Keeping, check_checkpoints, name_of
from dgc_topo.training.checkpoints.manifest import Manifest, complete_numbers
from dgc_topo.training.job import Job


class Earlier(NamedTuple):
    """Earlier work in a results folder that some jobs can go on with.

    Attributes:
        done: Fingerprints of the jobs that have records.
        begun: Checkpoints of the jobs that have none, by fingerprint.
        beside: Jobs beside them that have records.
        begun_beside: Jobs beside them that have none, but checkpoints.
        others: Why what is there is of other runs; "" if it is not.
        num_predicted: Number of predicted records.
    """

    done: frozenset[str] = frozenset()
    begun: Mapping[str, Manifest] = MappingProxyType({})
    beside: tuple[Job, ...] = ()
    begun_beside: tuple[Job, ...] = ()
    others: str = ""
    num_predicted: int = 0

    def missing(self, jobs: Sequence[Job]) -> list[Job]:
        """Return the jobs that have no record."""
        return [job for job in jobs if job.key not in self.done]

    @property
    def is_there(self) -> bool:
        """True if there is something of these jobs or of those beside, and nothing of others."""
        return not self.others and any((self.done, self.begun, self.beside, self.begun_beside))

    def is_interrupted(self, jobs: Sequence[Job], num_predictions: int) -> bool:
        """Return True if what is there is a part of the jobs' results, but not all of it."""
        unfinished = bool(self.missing(jobs)) or self.num_predicted < num_predictions
        return self.is_there and unfinished

    def notes(self, jobs: Sequence[Job]) -> list[str]:
        """Return a line about the runs that are there, if some are."""
        if not self.done:
            return []
        return [f"left out: {len(self.done)} of {len(jobs)} runs, which are there already"]


def earlier_in(folder: Path, jobs: Sequence[Job], beside: Sequence[Job] = ()) -> Earlier:
    """Return the earlier work in *folder*; none if it holds no results.

    Args:
        folder: Folder of results, existing or not.
        jobs: Jobs that are to go on.
        beside: Jobs whose results may be there, too, and stay.

    Raises:
        ResultsError: if the records cannot be read.
    """
    if not (folder / MEASUREMENTS).is_file():
        return Earlier()
    records = load_measurements(folder)
    measured = [record for record in records if record.kind == "measured"]
    keys = {record.job for record in measured}
    done = frozenset(job.key for job in jobs if job.key in keys)
    keeping = Keeping(folder=folder)
    begun: dict[str, Manifest] = {}
    others = _of_others(folder, measured, [*jobs, *beside])
    for job in jobs:
        try:
            manifest = None if job.key in done else check_checkpoints(keeping, job)
        except CheckpointError as error:
            others = others or str(error)
        else:
            begun |= {} if manifest is None else {job.key: manifest}
    recorded = tuple(job for job in beside if job.key in keys)
    begun_beside = tuple(
        job
        for job in beside
        if job.key not in keys and complete_numbers(keeping.checkpoints_of(job))
    )
    num_predicted = len(records) - len(measured)
    return Earlier(done, begun, recorded, begun_beside, others, num_predicted)


def _of_others(folder: Path, records: Iterable[Measurement], jobs: Sequence[Job]) -> str:
    """Return why a folder is one of other runs than *jobs*, by records and checkpoints; or ""."""
    keys = {job.key for job in jobs}
    for record in records:
        if record.job not in keys:
            run = f"{record.topology}, density {record.density:g}, seed {record.seed}"
            run += f", {record.world_size} ranks, {record.num_steps} steps, finished"
            return f"{folder}: holds results of other runs ({run})"
    names = {name_of(job) for job in jobs}
    for place in sorted((folder / CHECKPOINTS).glob("*/")):
        if place.name not in names and complete_numbers(place):
            return f"{folder}: holds checkpoints of another run, {place.name}"
    return ""


def is_begun(path: str | Path, output: str | Path | None, part: Part | None = None) -> bool:
    """Return True if a scenario's results folder holds something that its runs can go on with.

    Args:
        path: Scenario file, or the name of one that comes with the package.
        output: Results folder; ``results/NAME`` by default.
        part: Part of the scenario whose runs count; all of it by default.

    Raises:
        ValueError: if scenario, part or records cannot be read.
    """
    path = scenario_path(path)
    scenario = parse_scenario(read_scenario(path), str(path), path.parent)
    scenario = part.of(scenario) if part else scenario
    jobs, _ = plan_jobs(scenario) if scenario.train else ([], [])
    earlier = earlier_in(results_folder(scenario, output), jobs)
    return bool(earlier.done or earlier.begun)


def results_folder(scenario: Scenario, output: str | Path | None) -> Path:
    """Return the folder of a scenario's results: *output*, or ``results/NAME``."""
    return Path("results", scenario.name) if output is None else Path(output)


def refuse_others(folder: Path, earlier: Earlier) -> None:
    """Refuse to go on in the results of other runs.

    Raises:
        ResultsError: if there are any, naming what differs.
    """
    if earlier.others:
        raise ResultsError(
            f"{earlier.others}; expected an interrupted run of the same settings in {folder}, to "
            "go on with, or a new folder (--output).  More epochs are another training, too: what "
            "is finished is not made longer"
        )


class Start(NamedTuple):
    """The beginning of a run: anew, or with what is there.

    Attributes:
        missing: Jobs to run.
        keep: Fingerprints of jobs whose records stay; None begins anew.
        notes: Lines that say what is there.
        is_over: True if nothing is left to do.
        beside: Other jobs whose records stay.
    """

    missing: list[Job]
    keep: list[str] | None = None
    notes: Sequence[str] = ()
    is_over: bool = False
    beside: Sequence[Job] = ()

    def with_left_out(self, lines: Sequence[str]) -> Start:
        """Return it with notes about runs that are left out, first of all."""
        return self._replace(notes=[*(f"left out: {line}" for line in lines), *self.notes])


def start_of(
    folder: Path,
    scenario: Scenario,
    jobs: list[Job],
    *,
    wanted: bool,
    insists: bool,
    beside: Sequence[Job] = (),
) -> Start:
    """Return the beginning of a run of a scenario that is no ladder.

    Args:
        folder: Folder of its results, existing or not.
        scenario: The scenario.
        jobs: All of its jobs.
        wanted: True to go on with an interrupted run, if it is there.
        insists: True to go on with a finished one, too, and refuse to rename others' results.
        beside: Jobs whose results may be there, too, and stay; see `jobs_beside`.

    Raises:
        ResultsError: if it insists, and the results are of other runs.
    """
    if not (jobs and wanted):
        return Start(jobs)
    earlier = earlier_in(folder, jobs, beside)
    if insists:
        refuse_others(folder, earlier)
    notes = []
    if insists and not (earlier.done or earlier.begun):
        notes = [f"{folder}: nothing to go on with, so it begins at step 0"]
    total = _num_predictions(scenario, [*jobs, *earlier.beside])
    is_interrupted = earlier.is_interrupted(jobs, total)
    is_over = earlier.is_there and not is_interrupted
    if not (is_interrupted or (insists and is_over)):
        return Start(jobs, notes=notes)
    keep = [job.key for job in (*jobs, *beside)]
    notes += earlier.notes(jobs)
    return Start(earlier.missing(jobs), keep, notes, is_over, earlier.beside)


def jobs_beside(scenario: Scenario, jobs: Sequence[Job]) -> list[Job]:
    """Return the other runs of a whole scenario, of which *jobs* are a part.

    Args:
        scenario: The whole scenario.
        jobs: Those of the part, all of one number of workers.
    """
    if scenario.train is None or scenario.ladder is not None or not jobs:
        return []
    size = {"world_size": jobs[0].train.world_size}
    train = scenario.train.model_copy(update=size)
    others, _ = plan_jobs(scenario.model_copy(update={"train": train}))
    keys = {job.key for job in jobs}
    return [job for job in others if job.key not in keys]


def _num_predictions(scenario: Scenario, jobs: Sequence[Job]) -> int:
    known = sum(not job.compression.uses_ddp for job in jobs)
    return num_predictions(scenario, known + len(list(cases_of_scenario(scenario))))


def in_order(folder: ResultsFolder, jobs: Sequence[Job]) -> list[Measurement]:
    """Return the measured records of *jobs*, in their order."""
    places = {job.key: number for number, job in enumerate(jobs)}
    measured = [record for record in folder.measurements() if record.kind == "measured"]
    return sorted(measured, key=lambda record: places.get(record.job or "", len(places)))
