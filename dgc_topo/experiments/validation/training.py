"""Validation of whole training steps: measured in a lab, and predicted from their parts.

The times of computing and compressing come from workers that did only this before the trainings
began, all of them at once, because they share the machine.  The time of communication comes from
the calibrated network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import fmean, median

from dgc_topo.experiments.calibration.measure import DISTURBED, MAX_FOR_SPREAD, median_and_spread
from dgc_topo.experiments.jobs import check_trainings, plan_jobs
from dgc_topo.experiments.scenario import Scenario
from dgc_topo.experiments.training_cases import TrainingCase, cases_of_runs
from dgc_topo.experiments.validation.collectives import section_of
from dgc_topo.experiments.validation.records import TRAINING_STEPS, ValidationRow
from dgc_topo.network.calibrated import CalibratedNetwork
from dgc_topo.network.cluster import load_cluster
from dgc_topo.records.measurement import Measurement, Phases
from dgc_topo.simulation.training.periods import average_steps
from dgc_topo.simulation.workload_sources import lone_phases
from dgc_topo.training.job import Job
from dgc_topo.training.launch import Event, Finished, launch
from dgc_topo.workers.lab import Lab


def num_trainings(scenario: Scenario) -> int:
    """Return the number of trainings that `validate_training` runs if none is disturbed."""
    if scenario.train is None or scenario.lab is None:
        return 0
    return section_of(scenario).rounds * len(plan_jobs(scenario)[0])


def validate_training(
    scenario: Scenario,
    network: CalibratedNetwork,
    keep: Callable[[Measurement], None] = lambda _: None,
    advance: Callable[[int], None] = lambda _: None,
) -> Iterator[ValidationRow]:
    """Yield a row per training that ``[train]`` and ``[lab]`` describe, when all are done.

    In each of the scenario's rounds every training is run once.  A training whose rounds differ too
    much is measured in as many further rounds, at most twice.

    Args:
        scenario: Scenario with ``[validate]``; without ``[train]`` and ``[lab]`` nothing is done.
        network: Calibrated network, which predicts the communication.
        keep: Called with the record of each run as soon as it is made.
        advance: Called with the number of runs done, of the `num_trainings`.

    Raises:
        LabError: if this machine cannot have the lab.
        LaunchError: if a worker fails.
    """
    if scenario.train is None or scenario.lab is None:
        return
    records: list[Measurement] = []
    planned = num_trainings(scenario)

    def listen(event: Event) -> None:
        if isinstance(event, Finished):
            keep(event.measurement)
            records.append(event.measurement)
            advance(int(len(records) <= planned))

    jobs, _ = plan_jobs(scenario)
    check_trainings(scenario.name, jobs)
    with Lab(scenario.lab.spec(scenario.train.world_size)) as lab:
        for _ in range(MAX_FOR_SPREAD):
            for _ in range(section_of(scenario).rounds):
                launch(jobs, listen, lab)
            jobs = _disturbed(jobs, records)
            if not jobs:
                break
    yield from predict_trainings(scenario, network, records)


def _disturbed(jobs: Sequence[Job], records: Sequence[Measurement]) -> list[Job]:
    """Return those of the *jobs* whose rounds differ too much."""
    spreads = {
        key: median_and_spread([run.step_time_s for run in runs])[1]
        for key, runs in _by_job(records).items()
    }
    return [job for job in jobs if spreads[job.key] > DISTURBED]


def _by_job(records: Iterable[Measurement]) -> dict[str | None, list[Measurement]]:
    runs: dict[str | None, list[Measurement]] = {}
    for record in records:
        runs.setdefault(record.job, []).append(record)
    return runs


def predict_trainings(
    scenario: Scenario, network: CalibratedNetwork, records: Iterable[Measurement]
) -> Iterator[ValidationRow]:
    """Yield a row for each training that has measured runs.

    Times of computing and compressing are medians over all runs with the same work.

    Args:
        scenario: Scenario of the trainings.
        network: Calibrated network, which predicts the communication.
        records: Records of the measured runs.

    Raises:
        ValueError: if the scenario does not describe a record's training.
    """
    lab, records = scenario.lab, list(records)
    known = {job.key for job in plan_jobs(scenario)[0]} if scenario.train and lab else set()
    for record in records:
        if record.job not in known:
            raise ValueError(
                f"training of {record.workload}, {record.topology}, {record.compression} "
                f"{record.density:g}: expected one that scenario {scenario.name} describes"
            )
    if lab is None:
        return
    pooled = _pooled(list(map(_as_measured, records)))
    workloads = cases_of_runs(pooled, topologies=scenario.topologies, rules=scenario.rules)
    for runs in _by_job(records).values():
        middle = sorted(runs, key=lambda run: run.step_time_s)[len(runs) // 2]
        rate = lab.spec(middle.world_size).rate_bits_per_s
        predicted_s = _predicted_s(middle, workloads[records.index(middle)], network, rate)
        attempts = math.ceil(len(runs) / section_of(scenario).rounds)
        yield _row(runs, middle, rate, attempts, predicted_s)


def _as_measured(record: Measurement) -> Measurement:
    """Return a record at the real speed of workers that share one machine."""
    phases = record.crowd_phases or record.solo_phases
    return record.model_copy(update={"time_scale": 1.0, "solo_phases": phases})


def _pooled(records: Sequence[Measurement]) -> list[Measurement]:
    """Return records whose lone worker's times are medians over all runs with the same work.

    A lone worker's time does not depend on the topology, and only compressing depends on the
    density: noise in one topology's runs must not make that topology look slower.
    """
    found = []
    for record in records:
        same = [r for r in records if r.workload == record.workload]
        alike = [r for r in same if _sending(r) == _sending(record)]
        phases = Phases.alone(
            compute_s=median(lone_phases(r).compute_s for r in same),
            compress_s=median(lone_phases(r).compress_s for r in alike),
            update_s=median(lone_phases(r).update_s for r in same),
        )
        found.append(record.model_copy(update={"solo_phases": phases}))
    return found


def _sending(record: Measurement) -> tuple[str, float, str | None]:
    """Return what decides how long a worker compresses."""
    return record.compression, record.density, record.averaging


def _predicted_s(
    record: Measurement, case: TrainingCase, network: CalibratedNetwork, rate: float | None
) -> float:
    size = record.world_size
    hosts = network.parameters.network(size, rate, size * record.gradient_bytes)
    cluster = load_cluster(hosts, size)
    predicted = average_steps(
        case.step, case.topology, cluster, density=case.density, seed=case.seed
    )
    return predicted.step_time_s


def _row(
    runs: Sequence[Measurement],
    middle: Measurement,
    rate: float | None,
    attempts: int,
    predicted_s: float,
) -> ValidationRow:
    measured_s, spread = median_and_spread([run.step_time_s for run in runs])
    return ValidationRow(
        group=TRAINING_STEPS,
        name=middle.topology,
        world_size=middle.world_size,
        rate_bits_per_s=rate,
        payload=f"{middle.workload}, {middle.compression} {middle.density:g}{_how(middle)}",
        num_bytes=middle.compressed_bytes,
        bytes_sent=middle.wire_bytes_per_step,
        measured_s=measured_s,
        spread=spread,
        attempts=attempts,
        rounds=len(runs),
        load=fmean(run.load or 0.0 for run in runs),
        predicted_s=predicted_s,
    )


def _how(record: Measurement) -> str:
    if record.every > 1:
        return f", {record.averaging}"
    if record.bucket_bytes is None:
        return ""
    return f", buckets of {record.bucket_bytes / 2**20:g} MiB"
