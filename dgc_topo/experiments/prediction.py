"""Predictions of training steps on other networks, from recorded runs or models of the zoo.

A whole step is simulated (`dgc_topo.simulation.training`): compute, compression and update of a
worker that has its machine to itself, and communication over the schedule, overlapped or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache

from dgc_topo.experiments.scenario import Scenario
from dgc_topo.experiments.training_cases import TrainingCase
from dgc_topo.records.environment import describe_environment
from dgc_topo.records.measurement import Measurement, Phases
from dgc_topo.simulation.training import StepPhases, StepSimulation
from dgc_topo.simulation.training.periods import average_steps
from dgc_topo.tables.keys import at_key


def predict(
    scenario: Scenario, cases: Iterable[TrainingCase], advance: Callable[[], None] = lambda: None
) -> Iterator[Measurement]:
    """Yield one predicted record per case, network and world size.

    Args:
        scenario: Scenario that names the networks and world sizes.
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
    simulation = simulated(scenario, case, network, world_size)
    phases = simulation.phases
    return Measurement(
        kind="predicted",
        scenario=scenario.name,
        machine=_machine(),
        topology=case.topology.name,
        options=case.topology.plain_options,
        goal=simulation.goal,
        world_size=world_size,
        num_workers=simulation.num_workers,
        network=network,
        workload=case.workload.name,
        compression=case.compression,
        density=case.density,
        averaging=case.averaging,
        every=case.step.every,
        seed=case.seed,
        batch_size_per_worker=case.batch_size_per_worker,
        batch_shares=case.step.batch_shares,
        num_steps=0,
        step_time_s=simulation.step_time_s,
        phases=_phases(phases),
        samples_per_s=simulation.samples_per_s,
        gradient_bytes=case.workload.gradient_bytes,
        compressed_bytes=case.compressed_bytes,
        wire_bytes_per_step=simulation.bytes_per_rank,
        wire_bytes_per_sample=_per_sample(simulation),
        messages_per_step=simulation.messages_per_rank,
        sparse=case.sparse,
        solo_phases=case.phases,
        overlap=case.step.bucket_bytes is not None,
        bucket_bytes=case.step.bucket_bytes,
        communication_s=simulation.communication_s,
        exposed_communication_s=phases.exposed_s,
        straggler_wait_s=phases.wait_s,
        bound_by=simulation.bound_by,
    )


def _per_sample(simulation: StepSimulation) -> float | None:
    """Return the bytes that the busiest rank sends for each sample that a worker trains on."""
    samples = simulation.samples_per_s * simulation.step_time_s / simulation.num_workers
    return simulation.bytes_per_rank / samples if samples else None


def simulated(
    scenario: Scenario, case: TrainingCase, network: str, world_size: int
) -> StepSimulation:
    """Return the simulated steps of a prediction: several if the topology or compute times vary."""
    cluster = scenario.cluster(network, world_size)
    with at_key(f"network {network} with {world_size} ranks"):
        return average_steps(
            case.step,
            case.topology,
            cluster,
            density=case.density,
            seed=case.seed,
            num_draws=case.num_draws,
        )


def _phases(phases: StepPhases) -> Phases:
    """Return phases as a run measures them: waiting for wires and for late peers is one phase."""
    return Phases(
        compute_s=phases.compute_s,
        compress_s=phases.compress_s,
        communicate_s=0.0,
        wait_s=phases.exposed_s + phases.wait_s,
        update_s=phases.update_s,
    )


# Reading the versions of all installed packages takes longer than predicting.
@cache
def _machine() -> str:
    return str(describe_environment())
