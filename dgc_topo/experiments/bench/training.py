"""Benchmark of training: each topology beside DistributedDataParallel and a lone worker."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from dgc_topo.experiments.jobs import ALONE, check_trainings, throughput_jobs
from dgc_topo.experiments.scenario import Scenario
from dgc_topo.records.measurement import Measurement
from dgc_topo.training.job import Job
from dgc_topo.training.launch import Event, Finished, launch
from dgc_topo.workers import Loopback
from dgc_topo.workers.lab import Lab


class TrainingRow(BaseModel):
    """Measured speed of one way to train at one world size; the ways of one run took turns."""

    model_config = ConfigDict(frozen=True)

    network: str
    workload: str
    way: str
    topology: str
    world_size: int
    num_workers: int = Field(description="ranks that train; dedicated servers do not")
    density: float
    batch_size_per_worker: int
    rounds: int
    step_time_s: float = Field(description="median over rounds of the median step")
    spread: float = Field(description="largest less smallest round, over the median")
    samples_per_s: float = Field(description="images or tokens, of all workers together")
    scaling_efficiency: float = Field(
        description="throughput per worker over that of one worker alone, in this run"
    )
    wire_bytes_per_step: float = Field(description="of the busiest rank")
    load: float = Field(description="load average over a minute, as the run began")

    @property
    def label(self) -> str:
        """Name of the way to train, and of its topology."""
        return self.way if self.way == ALONE else f"{self.way}, {self.topology}"

    def as_json(self) -> dict[str, Any]:
        """Return a JSON value."""
        return self.model_dump(mode="json")


class TrainingBench:
    """All runs that ``[throughput]`` asks for, round by round.

    Args:
        scenario: Scenario with ``[train]`` and ``[throughput]``; it runs on its lab if it has
            one, else on loopback.

    Attributes:
        jobs: Runs of one round.
        left_out: Runs that are impossible, and why.

    Raises:
        ScenarioError: if a section is missing, or the training could not begin.
    """

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self.jobs, self.left_out = throughput_jobs(scenario)
        check_trainings(scenario.name, self.jobs)
        assert scenario.throughput is not None  # there are jobs
        self._rounds = scenario.throughput.rounds
        self._load = 0.0  # until it runs
        self._runs: list[list[Measurement]] = [[] for _ in self.jobs]

    @property
    def num_runs(self) -> int:
        """Number of runs of all rounds together."""
        return len(self.jobs) * self._rounds

    def run(self, advance: Callable[[int], None] = lambda _: None) -> None:
        """Run all rounds.

        Args:
            advance: Called with 1 after each run.

        Raises:
            LabError: if this machine cannot have the lab.
            LaunchError: if a worker fails.
        """
        self._load = os.getloadavg()[0]

        def listen(event: Event) -> None:
            if isinstance(event, Finished):
                self._runs[event.job].append(event.measurement)
                advance(1)

        with _hosts(self._scenario, self.jobs) as hosts:
            for _ in range(self._rounds):
                launch(self.jobs, listen, hosts)

    @property
    def rows(self) -> list[TrainingRow]:
        """Rows: the lone worker first, then by world size, in the scenario's order.

        Only complete rounds count; there are no rows before the first one is complete.
        """
        rounds = min(map(len, self._runs))
        if not rounds:
            return []
        whole = [runs[:rounds] for runs in self._runs]
        alone = _median_samples(whole[0])
        pairs = zip(self.jobs, whole, strict=True)
        return [_row(job, runs, alone, self._load) for job, runs in pairs]


def _hosts(scenario: Scenario, jobs: Sequence[Job]) -> Lab | Loopback:
    if scenario.lab is None:
        return Loopback()
    return Lab(scenario.lab.spec(max(job.train.world_size for job in jobs)))


def _median_samples(runs: Sequence[Measurement]) -> float:
    return median(run.samples_per_s for run in runs)


def _row(job: Job, runs: Sequence[Measurement], alone: float, load: float) -> TrainingRow:
    first, steps = runs[0], [run.step_time_s for run in runs]
    samples_per_s = _median_samples(runs)
    return TrainingRow(
        network=first.network,
        workload=first.workload,
        way=job.rung or "",
        topology=first.topology if job.compression.uses_ddp else job.topology.label,
        world_size=first.world_size,
        num_workers=first.num_workers,
        density=first.density,
        batch_size_per_worker=first.batch_size_per_worker,
        rounds=len(runs),
        step_time_s=median(steps),
        spread=(max(steps) - min(steps)) / median(steps),
        samples_per_s=samples_per_s,
        scaling_efficiency=samples_per_s / first.num_workers / alone,
        wire_bytes_per_step=median(run.wire_bytes_per_step for run in runs),
        load=load,
    )
