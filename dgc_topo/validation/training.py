"""Measure whole training steps in a lab, and predict each from a lone worker and the calibration.

What a step computes and compresses is taken from the worker that had the machine to itself before
the training began; what it communicates, from the calibrated network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from statistics import fmean

from dgc_topo.calibration.model import CalibratedNetwork
from dgc_topo.lab import Lab
from dgc_topo.predict import VARYING_ITERATIONS
from dgc_topo.results.measurement import Measurement
from dgc_topo.scenario import Scenario
from dgc_topo.simulate import Network
from dgc_topo.simulate.training import Pace, simulate_step
from dgc_topo.topology import load_topology
from dgc_topo.train.events import Event, Finished
from dgc_topo.train.job import plan_jobs
from dgc_topo.train.launch import launch
from dgc_topo.validation.rows import TRAINING_STEPS, Row
from dgc_topo.workloads import Workload, workloads_of_runs


def num_trainings(scenario: Scenario) -> int:
    """Return how many trainings `validate_training` runs."""
    return len(plan_jobs(scenario)[0]) if scenario.train and scenario.lab else 0


def validate_training(
    scenario: Scenario,
    network: CalibratedNetwork,
    keep: Callable[[Measurement], None] = lambda _: None,
    advance: Callable[[int], None] = lambda _: None,
) -> Iterator[Row]:
    """Yield a row per training that ``[train]`` and ``[lab]`` describe, when all are done.

    Args:
        scenario: Without both there is nothing to do.
        network: Predicts the communication.
        keep: Called with each training's record as soon as it is there.
        advance: Called with how many trainings are done.

    Raises:
        LabError: if this machine cannot have the lab.
        LaunchError: if a worker fails.
    """
    if scenario.train is None or scenario.lab is None:
        return
    records: list[Measurement] = []

    def listen(event: Event) -> None:
        if isinstance(event, Finished):
            keep(event.measurement)
            records.append(event.measurement)
            advance(1)

    jobs, _ = plan_jobs(scenario)
    with Lab(scenario.lab.spec(scenario.train.world_size)) as lab:
        launch(jobs, listen, lab)
    yield from predict_trainings(scenario, network, records)


def predict_trainings(
    scenario: Scenario, network: CalibratedNetwork, records: Iterable[Measurement]
) -> Iterator[Row]:
    """Yield the rows of trainings that have been measured.

    Args:
        scenario: Whose trainings they are.
        network: Predicts the communication.
        records: What was measured.

    Raises:
        ValueError: if a record is of no training that the scenario describes.
    """
    described = scenario.train is not None and scenario.lab is not None
    known = {job.key for job in plan_jobs(scenario)[0]} if described else set()
    for record in records:
        if record.job not in known or scenario.lab is None:
            raise ValueError(
                f"training of {record.workload}, {record.topology}, {record.compression} "
                f"{record.density:g}: expected one that scenario {scenario.name} describes"
            )
        rate = scenario.lab.spec(record.world_size).rate_bits_per_s
        yield training_row(record, network, rate)


def training_row(record: Measurement, network: CalibratedNetwork, rate: float | None) -> Row:
    """Return what was measured of a training, and the prediction of its step.

    In a scaled lab everything is predicted as slow as it was measured.

    Args:
        record: Of a training in a lab.
        network: Predicts the communication.
        rate: Of the lab's links, bit/s; None is unshaped.
    """
    [workload] = workloads_of_runs([record.model_copy(update={"time_scale": 1.0})])
    parameters = network.parameters
    hosts = parameters.network(record.world_size, rate, record.world_size * record.gradient_bytes)
    crowding = 1.0
    if record.time_scale == 1 and parameters.cores_per_machine is not None:
        on_machine = min(record.num_workers, parameters.hosts_per_machine)
        crowding = max(1.0, on_machine / parameters.cores_per_machine)
    return Row(
        group=TRAINING_STEPS,
        name=record.topology,
        world_size=record.world_size,
        rate_bits_per_s=rate,
        payload=f"{record.workload}, {record.compression} {record.density:g}{_overlap(record)}",
        num_bytes=record.compressed_bytes,
        bytes_sent=record.wire_bytes_per_step,
        measured_s=record.step_time_s,
        spread=0.0,
        predicted_s=predict_step(workload, hosts, record.world_size, crowding),
    )


def _overlap(record: Measurement) -> str:
    if record.bucket_bytes is None:
        return ""
    return f", buckets of {record.bucket_bytes / 2**20:g} MiB"


def predict_step(
    workload: Workload, network: Network, world_size: int, crowding: float = 1.0
) -> float:
    """Return the seconds of a training step on a network.

    Args:
        workload: What a worker does that has its machine to itself.
        network: Of at least *world_size* hosts.
        world_size: Number of ranks.
        crowding: Workers that share a core, all of which compute at once; 1 for one each.
    """
    topology = load_topology(workload.topology.name, workload.topology.options)
    pace = Pace(dict.fromkeys(range(world_size), crowding))
    step = replace(workload.step, pace=pace)
    iterations = VARYING_ITERATIONS if topology.varies else 1
    return fmean(
        simulate_step(
            step,
            topology.schedule(world_size, iteration=iteration, seed=workload.seed),
            network,
            iteration=iteration,
        ).step_time_s
        for iteration in range(iterations)
    )
