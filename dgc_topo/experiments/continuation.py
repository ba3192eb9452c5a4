"""Going on with interrupted results: which runs are there, and which are still to be run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from dgc_topo.experiments.prediction import num_predictions
from dgc_topo.experiments.scenario import Scenario
from dgc_topo.experiments.training_cases import cases_of_scenario
from dgc_topo.records.folder import ResultsFolder
from dgc_topo.records.measurement import Measurement
from dgc_topo.records.records import MEASUREMENTS, ResultsError, load_measurements
from dgc_topo.training.checkpoints.errors import CheckpointError
from dgc_topo.training.checkpoints.keeping import Keeping, check_checkpoints
from dgc_topo.training.checkpoints.manifest import Manifest
from dgc_topo.training.job import Job


class Earlier(NamedTuple):
    """Earlier work in a results folder that some jobs can go on with.

    Attributes:
        done: Fingerprints of the jobs that have records.
        begun: Checkpoints of the jobs that have none, by fingerprint.
        others: Why what is there is of other runs; "" if it is not.
        num_predicted: Number of predicted records.
    """

    done: frozenset[str] = frozenset()
    begun: Mapping[str, Manifest] = MappingProxyType({})
    others: str = ""
    num_predicted: int = 0

    def missing(self, jobs: Sequence[Job]) -> list[Job]:
        """Return the jobs that have no record."""
        return [job for job in jobs if job.key not in self.done]

    @property
    def is_there(self) -> bool:
        """True if there is something of these jobs, and nothing of others."""
        return not self.others and bool(self.done or self.begun)

    def is_interrupted(self, jobs: Sequence[Job], num_predictions: int) -> bool:
        """Return True if what is there is a part of the jobs' results, but not all of it."""
        unfinished = bool(self.missing(jobs)) or self.num_predicted < num_predictions
        return self.is_there and unfinished

    def notes(self, jobs: Sequence[Job]) -> list[str]:
        """Return a line about the runs that are there, if some are."""
        if not self.done:
            return []
        return [f"{len(self.done)} of {len(jobs)} runs, which are there already"]


def earlier_in(folder: Path, jobs: Sequence[Job]) -> Earlier:
    """Return the earlier work in *folder*; none if it holds no results.

    Raises:
        ResultsError: if the records cannot be read.
    """
    if not (folder / MEASUREMENTS).is_file():
        return Earlier()
    records = load_measurements(folder)
    keys = {job.key for job in jobs}
    measured = [record for record in records if record.kind == "measured"]
    done = frozenset(record.job for record in measured if record.job in keys)
    others = ""
    if any(record.job not in keys for record in measured):
        others = f"{folder}: holds results of other runs"
    keeping = Keeping(folder=folder)
    begun: dict[str, Manifest] = {}
    for job in jobs:
        try:
            manifest = None if job.key in done else check_checkpoints(keeping, job)
        except CheckpointError as error:
            others = others or str(error)
        else:
            begun |= {} if manifest is None else {job.key: manifest}
    return Earlier(
        frozenset(key for key in done if key), begun, others, len(records) - len(measured)
    )


def refuse_others(folder: Path, earlier: Earlier) -> None:
    """Refuse to go on in the results of other runs.

    Raises:
        ResultsError: if there are any, naming what differs.
    """
    if earlier.others:
        raise ResultsError(
            f"{earlier.others}; expected an interrupted run of the same settings in {folder}, to "
            "go on with, or a new folder (--output)"
        )


class Start(NamedTuple):
    """The beginning of a run: anew, or with what is there.

    Attributes:
        missing: Jobs to run.
        keep: Fingerprints of jobs whose records stay; None begins anew.
        notes: Lines that say what is there.
        is_over: True if nothing is left to do.
    """

    missing: list[Job]
    keep: list[str] | None = None
    notes: Sequence[str] = ()
    is_over: bool = False


def start_of(
    folder: Path, scenario: Scenario, jobs: list[Job], *, wanted: bool, insists: bool
) -> Start:
    """Return the beginning of a run of a scenario that is no ladder.

    Args:
        folder: Folder of its results, existing or not.
        scenario: The scenario.
        jobs: All of its jobs.
        wanted: True to go on with an interrupted run, if it is there.
        insists: True to go on with a finished one, too, and refuse to rename others' results.

    Raises:
        ResultsError: if it insists, and the results are of other runs.
    """
    if not (jobs and wanted):
        return Start(jobs)
    earlier = earlier_in(folder, jobs)
    if insists:
        refuse_others(folder, earlier)
    is_interrupted = earlier.is_interrupted(jobs, _num_predictions(scenario, jobs))
    is_over = earlier.is_there and not is_interrupted
    if not (is_interrupted or (insists and is_over)):
        return Start(jobs)
    keep = [job.key for job in jobs]
    return Start(earlier.missing(jobs), keep, earlier.notes(jobs), is_over)


def _num_predictions(scenario: Scenario, jobs: Sequence[Job]) -> int:
    known = sum(not job.compression.uses_ddp for job in jobs)
    return num_predictions(scenario, known + len(list(cases_of_scenario(scenario))))


def in_order(folder: ResultsFolder, jobs: Sequence[Job]) -> list[Measurement]:
    """Return the measured records of *jobs*, in their order."""
    places = {job.key: number for number, job in enumerate(jobs)}
    measured = [record for record in folder.measurements() if record.kind == "measured"]
    return sorted(measured, key=lambda record: places.get(record.job or "", len(places)))
