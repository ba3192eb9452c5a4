"""Keys for simulated training steps: workloads, overlap, random compute times, slow ranks."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from dgc_topo.simulation.training import Codec, ComputeFactors, Jitter, LognormalJitter, TailJitter
from dgc_topo.simulation.training.periods import JITTER_STEPS
from dgc_topo.simulation.workload import Workload
from dgc_topo.simulation.workload_sources import load_workload
from dgc_topo.tables.keys import OVERLAP, BucketMiB, EachOnce, bucket_bytes_of, once_by
from dgc_topo.tables.places import Label, Name
from dgc_topo.tables.table import NewKey, Table
from dgc_topo.wire.coding import DenseDtype
from dgc_topo.zoo import known_models

_COUNTS = ("compressible_elements", "dense_elements")
_NEEDED = ("name", "source", *_COUNTS, "compute_s", "batch_size_per_worker")


class WorkloadChoice(Table):
    """Model of the zoo, or numbers of elements, for scenarios that only simulate."""

    old_keys: ClassVar = {"overlap_exponent": NewKey("union_exponent", table="simulate.workloads")}

    model: str | None = Field(default=None, description="of the zoo, such as resnet50")
    name: Name | None = Field(default=None, description="by default the model's")
    source: Label | None = Field(default=None, description="where sizes and compute time come from")
    compressible_elements: int | None = Field(
        default=None, ge=0, description="in tensors of two dimensions or more"
    )
    dense_elements: int | None = Field(
        default=None, ge=0, description="in biases and norms, never compressed"
    )
    compute_s: float | None = Field(
        default=None,
        gt=0,
        description="forward and backward pass of one worker; a model's own by default",
    )
    update_s: float = Field(default=0.0, ge=0, description="optimizer step, if not in compute_s")
    batch_size_per_worker: int | None = Field(
        default=None, ge=1, description="per forward pass; a model's own by default"
    )
    union_exponent: float | None = Field(
        default=None, ge=0, le=1, description="instead of the one of [simulate]"
    )

    @field_validator("model")
    @classmethod
    def _is_known(cls, model: str | None) -> str | None:
        if model is not None and model not in known_models():
            raise ValueError(f"model {model!r}: unknown, expected one of {_names(known_models())}")
        return model

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.model is not None:
            said = [key for key in _COUNTS if getattr(self, key) is not None]
            if self.source is not None and self.compute_s is None:
                said.append("source")
            if said:
                raise ValueError(f"{_names(said)}: model {self.model!r} has its own, expected none")
            return self
        missing = [key for key in _NEEDED if getattr(self, key) is None]
        if missing:
            raise ValueError(
                f"{_names(missing)} missing: expected a model of the zoo "
                f"({_names(known_models())}), or all of {_names(_NEEDED)}"
            )
        return self

    def load(self) -> Workload:
        """Return the workload."""
        return load_workload(
            self.model,
            compute_s=self.compute_s,
            batch_size=self.batch_size_per_worker,
            update_s=self.update_s,
            name=self.label,
            elements=self.compressible_elements,
            dense_elements=self.dense_elements or 0,
        )

    @property
    def label(self) -> str:
        """Name in records."""
        return self.name or self.model or ""


class JitterChoice(Table):
    """Random distribution of every worker's compute time around its usual value, per step."""

    kind: Literal["lognormal", "tail"] = Field(
        description="lognormal: always a little off, mean 1; tail: sometimes late"
    )
    sigma: float | None = Field(default=None, ge=0, description="lognormal: relative spread")
    probability: float | None = Field(
        default=None, ge=0, le=1, description="tail: that a worker is late in a step"
    )
    mean_delay: float | None = Field(
        default=None, ge=0, description="tail: mean of the delay over the usual time"
    )

    @model_validator(mode="after")
    def _fits_kind(self) -> Self:
        wanted = {"lognormal": {"sigma"}, "tail": {"probability", "mean_delay"}}[self.kind]
        keys = ("sigma", "probability", "mean_delay")
        said = {key for key in keys if getattr(self, key) is not None}
        if said != wanted:
            raise ValueError(f"kind {self.kind!r} takes {_names(sorted(wanted))}, and nothing else")
        return self

    def load(self) -> Jitter:
        """Return the distribution."""
        if self.sigma is not None:
            return LognormalJitter(self.sigma)
        return TailJitter(self.probability or 0.0, self.mean_delay or 0.0)


class SlowRank(Table):
    """Rank whose compute takes longer."""

    old_keys: ClassVar = {"factor": NewKey("compute_time_factor", table="simulate.slow_ranks")}

    rank: int = Field(ge=0, description="of some world at least; smaller ones are without it")
    compute_time_factor: float = Field(
        gt=0, description="its compute time over that of the others: 2 is half as fast"
    )


class StepKeys(Table):
    """Keys that decide a simulated training step, beside topology and network."""

    old_keys: ClassVar = {"slow_hosts": NewKey("slow_ranks", table="simulate")}

    dense_dtypes: Annotated[tuple[DenseDtype, ...], EachOnce] = Field(
        default=(), description="of dense gradients on the wire; compression.wire_dtype by default"
    )
    overlap: bool | None = Field(
        default=None,
        description=f"{OVERLAP}; by default as it was trained, and false for workloads",
    )
    bucket_mib: BucketMiB = None
    accumulation_steps: int = Field(
        default=1, ge=1, le=10_000, description="forward and backward passes per step"
    )
    encode_s_per_element: float = Field(
        default=0.0, ge=0, description="compressing, per compressible element of the model"
    )
    decode_s_per_element: float = Field(default=0.0, ge=0, description="decompressing, likewise")
    jitter: JitterChoice | None = Field(
        default=None, description="random compute times; without it each takes its usual time"
    )
    slow_ranks: Annotated[tuple[SlowRank, ...], once_by("rank")] = Field(
        default=(), description="ranks that always take longer to compute"
    )
    jitter_steps: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description=f"steps drawn and averaged with jitter ({JITTER_STEPS} by default)",
    )

    @model_validator(mode="after")
    def _buckets_need_overlap(self) -> Self:
        bucket_bytes_of(overlap=bool(self.overlap), bucket_mib=self.bucket_mib)
        return self

    @model_validator(mode="after")
    def _stragglers_are_clear(self) -> Self:
        if self.jitter_steps is not None and self.jitter is None:
            raise ValueError("jitter_steps: nothing is drawn without jitter, expected jitter")
        return self

    def bucket_bytes(self, trained: float | None = None) -> float | None:
        """Return the bytes of a bucket; None for one bucket after the backward pass.

        Args:
            trained: Value in the recorded training, which is the default.
        """
        if self.overlap is None:
            return trained
        return bucket_bytes_of(overlap=self.overlap, bucket_mib=self.bucket_mib)

    @property
    def codec(self) -> Codec:
        """Costs of compressing."""
        return Codec(
            encode_s_per_element=self.encode_s_per_element,
            decode_s_per_element=self.decode_s_per_element,
        )

    def compute_factors(self, seed: int) -> ComputeFactors:
        """Return the factors on the ranks' compute times."""
        slow = {each.rank: each.compute_time_factor for each in self.slow_ranks}
        return ComputeFactors(slow, self.jitter.load() if self.jitter else None, seed)

    @property
    def num_draws(self) -> int:
        """Number of steps to average over if compute times are drawn."""
        return self.jitter_steps or JITTER_STEPS


def _names(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names)
