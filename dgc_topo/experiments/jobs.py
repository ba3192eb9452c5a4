"""The training runs that a scenario asks for."""

from __future__ import annotations

from collections.abc import Iterator

from dgc_topo.experiments.scenario import Scenario, ScenarioError
from dgc_topo.training.compression import CompressionSection
from dgc_topo.training.job import Job
from dgc_topo.training.settings import TrainSection
from dgc_topo.training.topologies import TopologyChoice

ALONE = "one worker"  #: what others' throughput is compared with

_RING = (TopologyChoice(name="ring"),)


def plan_jobs(scenario: Scenario) -> tuple[list[Job], list[str]]:
    """Return the runs that *scenario* asks for, and a line for each that is left out.

    Gossip averages parameters (D-PSGD), which DGC does not compress: it is run dense only.

    Raises:
        ScenarioError: if the scenario has no [train] section.
    """
    if scenario.train is None:
        raise ScenarioError(f"{scenario.name}: has no [train] section, there is nothing to train")
    return _without_compressed_gossip(_variants(scenario, scenario.train))


def throughput_jobs(scenario: Scenario) -> tuple[list[Job], list[str]]:
    """Return the runs that ``[throughput]`` asks for, one worker alone first; and what is left out.

    Raises:
        ScenarioError: if the scenario has no [train] and [throughput] sections.
    """
    train, throughput = scenario.train, scenario.throughput
    if train is None or throughput is None:
        raise ScenarioError(f"{scenario.name}: expected [train] and [throughput]")

    def variants() -> Iterator[Job]:
        alone = train.model_copy(update={"world_size": 1, "overlap": False, "bucket_mib": None})
        dense = scenario.compression.model_copy(update={"method": "dgc", "densities": (1.0,)})
        ring = scenario.model_copy(update={"topologies": _RING})
        yield from _jobs(ring, alone, dense, scenario.seed, ALONE)
        for size in throughput.world_sizes:
            sized = train.model_copy(update={"world_size": size})
            for way in throughput.ways:
                names = way.over_topologies or [choice.name for choice in scenario.topologies]
                some = [choice for choice in scenario.topologies if choice.name in names]
                yield from _jobs(
                    scenario.model_copy(update={"topologies": tuple(some)}),
                    way.training(sized),
                    way.over(scenario.compression),
                    scenario.seed,
                    way.name,
                )

    return _without_compressed_gossip(variants())


def _without_compressed_gossip(variants: Iterator[Job]) -> tuple[list[Job], list[str]]:
    jobs, left_out = [], []
    for job in variants:
        compresses = job.density < 1 or job.compression.method != "dgc"
        if job.topology.gossips and compresses:
            left_out.append(f"{job.label}: gossip averages whole parameters, dense only")
        else:
            jobs.append(job)
    return jobs, left_out


def _variants(scenario: Scenario, train: TrainSection) -> Iterator[Job]:
    """Yield all that the scenario names; a ladder seed by seed, so that each is whole early.

    World sizes come one after the other: what is interrupted has all seeds of the first ones.
    """
    if scenario.ladder is None:
        yield from _jobs(scenario, train, scenario.compression, scenario.seed, None)
        return
    whole = train.world_size * train.batch_size_per_worker
    for size in scenario.ladder.world_sizes or (train.world_size,):
        update = {"world_size": size, "batch_size_per_worker": whole // size}
        sized = train.model_copy(update=update)
        for seed in scenario.ladder.seeds:
            for rung in scenario.ladder.rungs:
                compression = rung.over(scenario.compression)
                yield from _jobs(scenario, sized, compression, seed, rung.name)


def _jobs(
    scenario: Scenario,
    train: TrainSection,
    compression: CompressionSection,
    seed: int,
    rung: str | None,
) -> Iterator[Job]:
    # DDP leaves the way to the backend; a ring's ranks all train, as DDP's do.
    for choice in _RING if compression.uses_ddp else scenario.topologies:
        for density in compression.densities:
            yield Job(
                scenario=scenario.name,
                seed=seed,
                topology=choice,
                density=density,
                train=train,
                compression=compression,
                rung=rung,
            )
