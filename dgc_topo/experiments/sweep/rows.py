"""Records of a sweep: one per combination, as a line of a file and as a row of a frame."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from dgc_topo.simulation.collective import Simulation
from dgc_topo.simulation.training import StepSimulation

if TYPE_CHECKING:
    import pandas as pd

VERSION = 1  #: raised by changes after which older versions cannot read the records
_LAST = ("bytes_per_rank", "bound_by", "engine", "skipped")


class SweepRow(BaseModel):
    """One combination of a sweep, and what came out.

    Numbers that a network does not have, and the results of what was skipped, are None.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    version: int = VERSION
    job: str = Field(description="fingerprint of all settings that decide the results")
    topology: str
    world_size: int
    workload: str | None = Field(description="name; None for a collective")
    network: str
    bandwidth_bytes_per_s: float | None = Field(description="of each host's link")
    latency_s: float | None = Field(description="of each link; host to host takes several")
    density: float
    num_bytes: float = Field(description="of the dense float32 gradient, or buffer")
    overlap: bool | None
    bucket_bytes: float | None
    wire_dtype: str
    accumulation_steps: int | None
    hosts_per_rack: int | None
    oversubscription: float | None
    slow_host_factor: float = Field(description="on the bandwidth of one host's links")
    slow_rank_factor: float | None = Field(description="on the compute time of one rank")
    bytes_per_rank: float | None = Field(default=None, description="sent by the busiest")
    bound_by: str | None = None
    engine: str | None = None
    skipped: str = Field(default="", description="why there are no results")

    #: Columns with results, beside the last four.
    results: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def setting_columns(cls) -> list[str]:
        """Return the columns with settings."""
        others = {"version", "job", *_LAST, *cls.results}
        return [name for name in cls.model_fields if name not in others]

    @classmethod
    def columns(cls) -> list[str]:
        """Return the columns of a frame, in their order."""
        return [*cls.setting_columns(), *cls.results, *_LAST]


class SweptStep(SweepRow):
    """A training step; see `StepSimulation` for what the results mean."""

    every: int = Field(default=1, description="local steps per exchange")
    averaging: str | None = Field(default=None, description="text form of the rule, if it is said")
    step_time_s: float | None = None
    utilisation: float | None = None
    speedup: float | None = None
    scaling_efficiency: float | None = None
    samples_per_s: float | None = None
    communication_s: float | None = None
    exposed_share: float | None = None
    compute_s: float | None = None
    compress_s: float | None = None
    exposed_s: float | None = None
    wait_s: float | None = None
    update_s: float | None = None

    results: ClassVar = (
        "step_time_s",
        "utilisation",
        "speedup",
        "scaling_efficiency",
        "samples_per_s",
        "communication_s",
        "exposed_share",
        "compute_s",
        "compress_s",
        "exposed_s",
        "wait_s",
        "update_s",
    )


class SweptCollective(SweepRow):
    """A collective; see `Simulation` for what the results mean."""

    time_s: float | None = None
    busbw_bytes_per_s: float | None = None
    lower_bound_s: float | None = None

    results: ClassVar = ("time_s", "busbw_bytes_per_s", "lower_bound_s")


def results_of_step(step: StepSimulation) -> dict[str, object]:
    """Return the results of a simulated step by their columns."""
    return {
        **step.phases._asdict(),
        "step_time_s": step.step_time_s,
        "utilisation": step.utilisation,
        "speedup": step.speedup,
        "scaling_efficiency": step.scaling_efficiency,
        "samples_per_s": step.samples_per_s,
        "communication_s": step.communication_s,
        "exposed_share": step.exposed_share,
        "bytes_per_rank": step.bytes_per_rank,
        "bound_by": step.bound_by,
        "engine": step.runs[0].engine,
    }


def results_of_collective(run: Simulation) -> dict[str, object]:
    """Return the results of a simulated collective by their columns."""
    return {
        "time_s": run.time_s,
        "busbw_bytes_per_s": run.busbw_bytes_per_s,
        "lower_bound_s": run.lower_bound_s,
        "bytes_per_rank": run.bytes_per_rank,
        "bound_by": run.bound_by,
        "engine": run.run.engine,
    }


def frame_of_rows(rows: Iterable[SweepRow], kind: type[SweepRow]) -> pd.DataFrame:
    """Return one row per record; what it lacks is NaN or None."""
    import pandas as pd  # noqa: PLC0415  # records are read without it

    columns = kind.columns()
    frame = pd.DataFrame(
        [[getattr(row, each) for each in columns] for row in rows], columns=columns
    )
    texts = {"topology", "workload", "network", "wire_dtype", "averaging"}
    texts |= {"bound_by", "engine", "skipped"}
    empty = [name for name in columns if name not in texts and frame[name].dtype == object]
    return frame.astype(dict.fromkeys(empty, "float64"))
