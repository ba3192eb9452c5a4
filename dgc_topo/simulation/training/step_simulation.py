"""`StepSimulation`: the result of a simulated training step, as people ask for it."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from dgc_topo.schedule import Goal
from dgc_topo.simulation.collective import frame_of
from dgc_topo.simulation.training.engine import TrainingStep
from dgc_topo.simulation.training.result import StepPhases, StepRun
from dgc_topo.simulation.workload import Workload
from dgc_topo.sizes import is_sparse
from dgc_topo.text import html_facts
from dgc_topo.units import seconds_text, times_text

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class StepSimulation:
    """Training step of all ranks in simulated time; means over several steps if they differ.

    With local steps, times and bytes are shares of a period: of all that its steps and its one
    exchange take.

    Attributes:
        topology: Text of the topology.
        cluster: Name of the cluster.
        goal: Goal of the schedules.
        density: Fraction of the compressible elements that is sent; 1 is dense.
        step: Work of every worker.
        runs: Runs of single periods; several if the topology varies or compute times are random.
    """

    topology: str
    cluster: str
    goal: Goal
    density: float
    step: TrainingStep
    runs: tuple[StepRun, ...]

    @property
    def workload(self) -> Workload:
        """Work of one worker in one pass."""
        return self.step.workload

    @property
    def world_size(self) -> int:
        """Number of ranks, dedicated servers included."""
        return len(self.runs[0].update_s)

    @property
    def num_workers(self) -> int:
        """Number of ranks that train."""
        return len(self.runs[0].workers)

    @property
    def phases(self) -> StepPhases:
        """Seconds of a step by what they were spent on (means over workers)."""
        columns = zip(*(run.phases for run in self.runs), strict=True)
        return StepPhases(*(fmean(column) for column in columns))

    @property
    def every(self) -> int:
        """Local steps per exchange."""
        return self.step.every

    @property
    def step_time_s(self) -> float:
        """Seconds from the common begin to the end of the last rank, per step."""
        return fmean(run.step_time_s for run in self.runs)

    @property
    def utilisation(self) -> float:
        """Share of the workers' time in which they compute or update."""
        phases = self.phases
        return (phases.compute_s + phases.update_s) / self.step_time_s

    @property
    def communication_s(self) -> float:
        """Seconds per step for which a bucket was under way (mean of workers)."""
        return fmean(run.communication_s for run in self.runs)

    @property
    def exposed_share(self) -> float:
        """Fraction of the communication that no computing hides; 0 if there is none."""
        return self.phases.exposed_s / self.communication_s if self.communication_s else 0.0

    @property
    def samples_per_s(self) -> float:
        """Throughput of all workers together, in the workload's samples."""
        samples = self.step.accumulation_steps * self.workload.batch_samples
        return self.step.num_batches(self.num_workers) * samples / self.step_time_s

    @property
    def speedup(self) -> float:
        """Throughput over that of one worker that neither compresses nor communicates."""
        return self.step.num_batches(self.num_workers) * self.step.alone_s / self.step_time_s

    @property
    def scaling_efficiency(self) -> float:
        """Speed-up per worker, 1 at best."""
        return self.speedup / self.num_workers

    @property
    def bytes_per_rank(self) -> float:
        """Bytes that the busiest rank sends per step."""
        return fmean(float(run.traffic.bytes_sent.max()) for run in self.runs) / self.every

    @property
    def messages_per_rank(self) -> float:
        """Messages that the busiest rank sends per step."""
        return fmean(float(run.traffic.messages_sent.max()) for run in self.runs) / self.every

    @property
    def bound_by(self) -> str:
        """Name of what bounds the first step: compute, a link, a CPU, or latency."""
        return self.runs[0].bound_by

    def as_dict(self) -> dict[str, object]:
        """Return the settings and the results as plain numbers and texts."""
        return {
            "workload": self.workload.name,
            "topology": self.topology,
            "world_size": self.world_size,
            "network": self.cluster,
            "num_bytes": self.workload.gradient_bytes,
            "density": self.density,
            "overlap": self.step.bucket_bytes is not None,
            "every": self.every,
            "batch_size_per_worker": self.workload.batch_size,
            **self.phases._asdict(),
            "step_time_s": self.step_time_s,
            "communication_s": self.communication_s,
            "exposed_share": self.exposed_share,
            "samples_per_s": self.samples_per_s,
            "speedup": self.speedup,
            "scaling_efficiency": self.scaling_efficiency,
            "utilisation": self.utilisation,
            "bytes_per_rank": self.bytes_per_rank,
            "bound_by": self.bound_by,
        }

    def to_frame(self) -> pd.DataFrame:
        """Return `as_dict` as a table with one row."""
        return frame_of(self.as_dict())

    @property
    def _title(self) -> str:
        sent = f"density {self.density:g}" if is_sparse(self.density) else "dense"
        if self.every > 1:
            sent += f" every {self.every} steps"
        where = f"{self.world_size} ranks on {self.cluster}"
        return f"{self.workload.name}, {sent}, {self.topology}, {where}"

    def __repr__(self) -> str:
        return (
            f"StepSimulation({self._title}: {seconds_text(self.step_time_s)}, "
            f"{times_text(self.speedup)}, bound by {self.bound_by}{self._assumed})"
        )

    @property
    def _assumed(self) -> str:
        free = is_sparse(self.density) and not self.phases.compress_s
        return ", compressing assumed free" if free else ""

    def _repr_html_(self) -> str:
        return html_facts(self._title, self.facts())

    def facts(self) -> dict[str, str]:
        """Return what came out, as texts with units: phases, step, throughput, bound."""
        phases = self.phases._asdict().items()
        exposed = f"{seconds_text(self.communication_s)}, {self.exposed_share:.0%} exposed"
        return {
            **{name.removesuffix("_s"): seconds_text(seconds) for name, seconds in phases},
            "step": seconds_text(self.step_time_s),
            "communication": exposed,
            "utilisation": f"{self.utilisation:.1%}",
            "throughput": f"{self.samples_per_s:,.4g} {self.workload.samples}/s",
            "speed-up": f"{times_text(self.speedup)} ({self.scaling_efficiency:.0%})",
            "bound by": self.bound_by + self._assumed,
        }
