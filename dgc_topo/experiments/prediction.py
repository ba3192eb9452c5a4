"""Predict training steps on networks nobody has here, from what a run recorded or a model says.

A step is simulated whole (`dgc_topo.simulation.training`): compute, compression and update of a
worker that has its machine to itself, and communication over the schedule, overlapped or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, lru_cache
from statistics import fmean

from dgc_topo.experiments.scenario import Scenario
from dgc_topo.experiments.training_cases import TrainingCase
from dgc_topo.records.environment import describe_environment
from dgc_topo.records.measurement import Measurement, Phases
from dgc_topo.schedule import Schedule
from dgc_topo.simulation.training import StepRun, simulate_training_step
from dgc_topo.tables.keys import at_key
from dgc_topo.topology import Topology

VARYING_ITERATIONS = 8  #: a topology that changes is averaged over so many iterations


def predict(
    scenario: Scenario, cases: Iterable[TrainingCase], advance: Callable[[], None] = lambda: None
) -> Iterator[Measurement]:
    """Yield one predicted record per case, network and world size.

    Args:
        scenario: Names the networks and world sizes.
        cases: Training steps to run on them.
        advance: Called after each record, for a progress bar.
    """
    if scenario.simulate is None:
        return
    for case in cases:
        for network in scenario.simulate.networks:
            for world_size in scenario.simulate.world_sizes:
                yield predict_one(scenario, case, network, world_size)
                advance()


def num_predictions(scenario: Scenario, num_cases: int) -> int:
    """Return how many records `predict` yields."""
    if scenario.simulate is None:
        return 0
    return num_cases * len(scenario.simulate.networks) * len(scenario.simulate.world_sizes)


def predict_one(
    scenario: Scenario, case: TrainingCase, network: str, world_size: int
) -> Measurement:
    """Return the predicted record of one case on one network with *world_size* ranks."""
    steps = [step for _, step in simulated_steps(scenario, case, network, world_size)]
    num_workers = len(steps[0].workers)
    step_time_s = fmean(step.step_time_s for step in steps)
    exposed_s = fmean(step.phases.exposed_s for step in steps)
    late_s = fmean(step.phases.wait_s for step in steps)
    return Measurement(
        kind="predicted",
        scenario=scenario.name,
        machine=_machine(),
        topology=case.topology.name,
        options=case.topology.plain_options,
        goal=_schedule(case.topology, world_size, 0, case.seed).goal,
        world_size=world_size,
        num_workers=num_workers,
        network=network,
        workload=case.workload.name,
        compression=case.compression,
        density=case.density,
        seed=case.seed,
        batch_size_per_worker=case.batch_size_per_worker,
        num_steps=0,
        step_time_s=step_time_s,
        phases=_phases(steps),
        samples_per_s=num_workers * case.batch_samples / step_time_s,
        gradient_bytes=case.workload.gradient_bytes,
        compressed_bytes=case.compressed_bytes,
        wire_bytes_per_step=fmean(float(step.traffic.bytes_sent.max()) for step in steps),
        messages_per_step=fmean(float(step.traffic.messages_sent.max()) for step in steps),
        sparse=case.sparse,
        solo_phases=case.phases,
        overlap=case.step.bucket_bytes is not None,
        bucket_bytes=case.step.bucket_bytes,
        communication_s=fmean(step.communication_s for step in steps),
        exposed_communication_s=exposed_s,
        straggler_wait_s=late_s,
        bound_by=steps[0].bound_by,
    )


def simulated_steps(
    scenario: Scenario, case: TrainingCase, network: str, world_size: int
) -> Iterator[tuple[int, StepRun]]:
    """Yield the simulated steps behind a prediction, each with its iteration.

    One step if all are alike; several if the topology changes or compute times are drawn.
    """
    topology = case.topology
    iterations = VARYING_ITERATIONS if topology.varies else 1
    if case.step.compute_factors.varies:
        iterations = max(iterations, case.num_draws)
    for iteration in range(iterations):
        number = iteration if topology.varies else 0
        schedule = _schedule(topology, world_size, number, case.seed)
        cluster = scenario.cluster(network, world_size)
        with at_key(f"network {network} with {world_size} ranks"):
            run = simulate_training_step(case.step, schedule, cluster, iteration=iteration)
        yield iteration, run


def _phases(steps: Sequence[StepRun]) -> Phases:
    """Return means as a run would have measured them: it cannot tell wires from late peers."""
    phases = [step.phases for step in steps]
    return Phases(
        compute_s=fmean(phase.compute_s for phase in phases),
        compress_s=fmean(phase.compress_s for phase in phases),
        communicate_s=0.0,
        wait_s=fmean(phase.exposed_s + phase.wait_s for phase in phases),
        update_s=fmean(phase.update_s for phase in phases),
    )


# Thousands of predictions ask for the same few; finding the versions of all that is installed takes
# longer than to predict.


@lru_cache(maxsize=1024)
def _schedule(topology: Topology, world_size: int, iteration: int, seed: int) -> Schedule:
    return topology.schedule(world_size, iteration=iteration, seed=seed)


@cache
def _machine() -> str:
    return str(describe_environment())
