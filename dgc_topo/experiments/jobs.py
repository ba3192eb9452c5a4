"""Training runs (jobs) that a scenario, or one part of it, asks for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from dgc_topo.averaging import Averaging, found_anywhere, identified
from dgc_topo.experiments.scenario import Scenario, ScenarioError
from dgc_topo.experiments.scenario.averaging import check_sections
from dgc_topo.experiments.scenario.variants import Variant
from dgc_topo.logs.opening import check_logs
from dgc_topo.tables.keys import with_keys
from dgc_topo.topology import Topology, load_topology
from dgc_topo.training.compression import CompressionSection
from dgc_topo.training.job import Job
from dgc_topo.training.settings import TrainSection
from dgc_topo.workers.seat import Seat

ALONE = "one worker"  #: name of the run with whose throughput others are compared

_OF_A_MACHINE = {"data_path", "folder"}  #: keys of ``[train]`` that may differ between machines


@dataclass(frozen=True, slots=True)
class Part:
    """Part of a scenario: one topology and, unless None, one density and one world size.

    Attributes:
        topology: Topology, of the scenario or another.
        density: Fraction of the elements that is sent.
        world_size: Number of ranks that train.
        averaging: The averaging rule; those of the scenario that fit the topology by default.
    """

    topology: Topology
    density: float | None = None
    world_size: int | None = None
    averaging: Averaging | None = None

    def of(self, scenario: Scenario) -> Scenario:
        """Return *scenario* reduced to this part.

        Raises:
            ScenarioError: if the density, the world size or the rule is impossible there.
        """
        compression = scenario.compression
        if self.density is not None:
            try:
                compression = with_keys(compression, {"densities": (self.density,)}, "compression")
                if scenario.train is not None:
                    compression.check_warm_up(scenario.train.epochs)
            except ValueError as error:
                raise ScenarioError(f"density {self.density:g}: {error}") from error
        changed = {
            "topologies": (self.topology,),
            "compression": compression,
            "averaging": self._rules_of(scenario),
        }
        return scenario.model_copy(update={**changed, "train": self._train_of(scenario)})

    def _rules_of(self, scenario: Scenario) -> tuple[Averaging, ...]:
        rules = scenario.averaging if self.averaging is None else (self.averaging,)
        refusals = [rule.refusal_of(self.topology) for rule in rules]
        fitting = tuple(rule for rule, no in zip(rules, refusals, strict=True) if no is None)
        if rules and not fitting:
            raise ScenarioError(f"averaging: {refusals[0]}")
        if self.averaging is not None and scenario.train is not None:
            try:
                check_sections("averaging", self.averaging, scenario.train, scenario.compression)
            except ValueError as error:
                raise ScenarioError(str(error)) from error
        return fitting

    def _train_of(self, scenario: Scenario) -> TrainSection | None:
        if self.world_size is None or scenario.train is None:
            return scenario.train
        if scenario.ladder is not None:
            raise ScenarioError("world_size: a [ladder] has world sizes of its own")
        try:
            self.topology.schedule(self.world_size)
        except ValueError as error:
            raise ScenarioError(f"world_size {self.world_size}: {error}") from error
        return scenario.train.model_copy(update={"world_size": self.world_size})

    @property
    def options(self) -> tuple[str, ...]:
        """Options of a command that runs this part, valid in any folder."""
        topology = self.topology
        if topology.is_file:
            path = Path(topology.folder, topology.name).absolute()
            topology = replace(topology, name=str(path), folder="")
        words = ["--topology", str(topology)]
        if self.density is not None:
            words += ["--density", repr(self.density)]
        if self.world_size is not None:
            words += ["--world-size", str(self.world_size)]
        if self.averaging is not None:
            words += ["--averaging", str(found_anywhere(self.averaging))]
        return tuple(words)


def plan_jobs(scenario: Scenario) -> tuple[list[Job], list[str]]:
    """Return the runs that *scenario* asks for, and a line for each that is left out.

    Gossip averages parameters (D-PSGD), which DGC does not compress, so it runs dense only.

    Raises:
        ScenarioError: if the scenario has no [train] section.
    """
    if scenario.train is None:
        raise ScenarioError(f"{scenario.name}: has no [train] section, there is nothing to train")
    return _without_misfits(_variants(scenario, scenario.train))


def throughput_jobs(scenario: Scenario) -> tuple[list[Job], list[str]]:
    """Return the runs of ``[throughput]``, a lone worker first; and a line for each left out.

    Raises:
        ScenarioError: if the scenario has no [train] and [throughput] sections.
    """
    train, throughput = scenario.train, scenario.throughput
    if train is None or throughput is None:
        raise ScenarioError(f"{scenario.name}: expected [train] and [throughput]")

    alone = train.model_copy(update={"world_size": 1, "overlap": False, "bucket_mib": None})
    dense = scenario.compression.model_copy(update={"method": "dgc", "densities": (1.0,)})
    update = {"topologies": (load_topology("ring"),), "averaging": ()}
    lone = scenario.model_copy(update=update)
    jobs = [*_jobs(lone, alone, dense, variant=Variant(name=ALONE))]
    for size in throughput.world_sizes:
        sized = train.model_copy(update={"world_size": size})
        for way in throughput.ways:
            over = scenario.model_copy(update={"topologies": way.topologies(scenario.topologies)})
            jobs += _jobs(over, way.training(sized), way.over(scenario.compression), variant=way)
    return _without_misfits(jobs)


def _without_misfits(variants: Iterable[Job]) -> tuple[list[Job], list[str]]:
    jobs, left_out = [], []
    for job in variants:
        misfit = job.rule.refusal_of(job.topology)
        if misfit is not None:
            left_out.append(misfit)
        elif not job.rule.compresses and job.method != "dense":
            left_out.append(f"{job.label}: gossip averages whole parameters, dense only")
        else:
            jobs.append(job)
    return jobs, list(dict.fromkeys(left_out))


def _check_attendance(where: str, job: Job) -> None:
    """Refuse a training whose rule leaves out ranks that are not there, or whom others follow."""
    where = f"{where}: averaging: {job.rule.label}"
    if job.rule.left_out and job.train.on_lost_rank == "continue":
        raise ScenarioError(
            f"{where} with train.on_lost_rank = 'continue': others have the numbers of lost ranks "
            "then, expected 'stop'"
        )
    try:
        if job.rule.leaves_out:
            job.attendance(job.train.world_size).arranged(job.topology)
    except ValueError as error:
        raise ScenarioError(f"{where}: {error}") from error


def check_trainings(where: str, jobs: Sequence[Job], *, seat: Seat | None = None) -> None:
    """Refuse trainings that could not begin, before any file is touched or worker started.

    Args:
        where: Name of the scenario, for errors.
        jobs: All that are to be run.
        seat: Of a worker that checks for itself: it keeps the data, and uses its own device.

    Raises:
        ScenarioError: naming the key and what was expected.
    """
    try:
        for train in {id(job.train): job.train for job in jobs}.values():
            check_logs(train.log, train.folder)
    except ValueError as error:
        raise ScenarioError(f"{where}: train.{error}") from error
    for job in jobs:
        _check_attendance(where, job)
    if not any(job.train.needs_trial for job in jobs):
        return
    from dgc_topo.training.learning import forget_data  # noqa: PLC0415  # takes torch
    from dgc_topo.training.preflight import check_jobs  # noqa: PLC0415

    try:
        check_jobs(jobs, local_rank=(seat and seat.local_rank) or 0)
    except ValueError as error:
        raise ScenarioError(f"{where}: {error}") from error
    finally:
        if seat is None:
            forget_data()


def _variants(scenario: Scenario, train: TrainSection) -> Iterator[Job]:
    """Yield all variants of the scenario; a ladder's seed by seed, so that seeds complete early.

    World sizes follow each other, so that an interrupted ladder has all seeds of the first ones.
    """
    if scenario.ladder is None:
        yield from _jobs(scenario, train, scenario.compression)
        return
    whole = train.world_size * train.batch_size_per_worker
    for size in scenario.ladder.world_sizes or (train.world_size,):
        update = {"world_size": size, "batch_size_per_worker": whole // size}
        sized = train.model_copy(update=update)
        for seed in scenario.ladder.seeds:
            for rung in scenario.ladder.rungs:
                seeded = scenario.model_copy(update={"seed": seed})
                yield from _jobs(seeded, sized, rung.over(scenario.compression), variant=rung)


def _jobs(
    scenario: Scenario,
    train: TrainSection,
    compression: CompressionSection,
    *,
    variant: Variant | None = None,
) -> Iterator[Job]:
    rules = scenario.averaging if variant is None else variant.averagings(scenario.averaging)
    topologies = scenario.topologies
    if compression.uses_ddp:  # has no topology here; all of a ring's ranks train, too
        topologies, rules = (load_topology("ring"),), ()
    for topology, rule in product(topologies, rules or (None,)):
        for density in compression.densities:
            yield Job(
                scenario=scenario.name,
                seed=scenario.seed,
                topology=topology,
                density=density,
                train=train,
                compression=compression,
                rung=None if variant is None else variant.name,
                averaging=rule,
            )


def compared_settings(scenario: Scenario) -> dict[str, Any]:
    """Return the settings that all ranks must share, by their keys in the scenario."""
    from dgc_topo.runtime.comparison import topology_settings  # noqa: PLC0415  # takes torch

    sections = {
        "train": scenario.train and scenario.train.model_dump(mode="json", exclude=_OF_A_MACHINE),
        "compression": scenario.compression.model_dump(mode="json"),
    }
    world_size = scenario.train.world_size if scenario.train else 1
    topologies = [
        topology_settings(topology, world_size, scenario.seed) for topology in scenario.topologies
    ]
    # A launch has one world size.
    about = topologies[0] if len(topologies) == 1 else {"topologies": topologies}
    rules = (
        {"averaging": "; ".join(map(identified, scenario.averaging))} if scenario.averaging else {}
    )
    return {"seed": scenario.seed, **about, **rules, **dict(_flat("", sections))}


def _flat(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the numbers and texts in nested settings with their dotted keys."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(f"{key}.{name}" if key else name, inner)
    else:
        yield key, value
