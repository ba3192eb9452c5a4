"""The `Measurement`: one record for one configuration, measured or predicted."""

from __future__ import annotations

from datetime import UTC, datetime
from math import isfinite, nan
from typing import Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from pydantic_core import PydanticCustomError

from dgc_topo.records.quality import LostRank, ModelFiles, Quality, Record, StalenessCounts
from dgc_topo.schedule.completion import Merge
from dgc_topo.wire.coding import EntryCoding, FlatCoding, IndexChoice, WireCoding, WireDtype

SCHEMA_VERSION = 1  #: raised by changes after which older versions cannot read the records

#: Suffix of a workload's name if its workers waited instead of computing, and learnt nothing.
EMULATED_COMPUTE = "(emulated compute)"


#: Reference of a speed-up.
ONE_DENSE_WORKER = (
    "one dense worker, whose forward pass, backward pass and update take as long as the row's own, "
    "and which neither compresses nor communicates"
)


class Phases(Record):
    """Seconds of one training step by phase (medians over steps)."""

    compute_s: NonNegativeFloat = Field(description="batch, forward and backward pass")
    compress_s: NonNegativeFloat = Field(description="momentum, selection, encoding, decoding")
    communicate_s: NonNegativeFloat = Field(description="packing, posting and merging messages")
    wait_s: NonNegativeFloat = Field(description="blocked until peers or the wire deliver")
    update_s: NonNegativeFloat = Field(description="optimizer step")

    @classmethod
    def alone(cls, *, compute_s: float, compress_s: float, update_s: float) -> Phases:
        """Return the phases of a lone worker, which does not communicate."""
        return cls(
            compute_s=compute_s,
            compress_s=compress_s,
            communicate_s=0.0,
            wait_s=0.0,
            update_s=update_s,
        )


class SparseSizes(Record):
    """Composition of a sparse gradient, after the warm-up (means over steps and workers)."""

    length: PositiveInt = Field(description="elements in the tensors that are compressed")
    dense_elements: NonNegativeInt = Field(description="elements that always travel dense")
    entries: NonNegativeFloat = Field(description="entries that one worker selects")
    merged_entries: NonNegativeFloat = Field(description="entries in the sum over all workers")
    bytes_per_entry: PositiveFloat = Field(
        default=8.0, description="that one worker's entries took, index and header included"
    )
    index_encoding: IndexChoice | None = Field(
        default=None, description="of messages; records without it had 8 bytes per entry, flat"
    )
    wire_dtype: WireDtype = Field(default="float32", description="of all values in messages")
    merge: Merge = Field(default="union", description="policy of the sums")
    balance: bool = Field(
        default=False, description="chunks of equal entries: exact sums took two passes"
    )

    @property
    def coding(self) -> EntryCoding:
        """Coding that decides the bytes of messages of entries."""
        if self.index_encoding is None:
            return FlatCoding(self.bytes_per_entry)
        return WireCoding(self.index_encoding, self.wire_dtype)


class ProfileLayer(Record):
    """Layer of a profile: gradients that are complete together."""

    name: str
    ready_s: NonNegativeFloat = Field(description="seconds after the backward pass began")
    compressible_elements: NonNegativeInt = Field(description="in tensors that DGC compresses")
    dense_elements: NonNegativeInt = Field(description="in biases and norms")


class RecordedProfile(Record):
    """Times at which the gradients of one worker alone are complete (medians over steps)."""

    forward_s: NonNegativeFloat = Field(description="batch and forward pass")
    layers: tuple[ProfileLayer, ...] = Field(
        min_length=1, description="in the order of the backward pass, which the last one ends"
    )


class Measurement(Record):
    """Record of what one configuration did (measured) or would do (predicted)."""

    schema_version: int = Field(
        default=SCHEMA_VERSION, ge=1, le=SCHEMA_VERSION, description="of these keys"
    )
    kind: Literal["measured", "predicted"]
    scenario: str
    created: datetime = Field(default_factory=lambda: datetime.now(UTC))
    machine: str = Field(description="hardware and software that measured, or ran the prediction")

    topology: str
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)
    goal: str = Field(
        default="all-reduce", description="what a step does: all-reduce, or a kind of mixing"
    )
    spectral_gap: float | None = Field(
        default=None,
        description="of gossip: 1 minus the factor by which an exchange brings ranks nearer",
    )
    world_size: PositiveInt
    num_workers: PositiveInt = Field(description="ranks that train; dedicated servers do not")
    network: str = Field(
        description="'loopback' for processes on one machine, the lab with its rates, or the fabric"
    )
    time_scale: float = Field(
        default=1.0,
        ge=1,
        description="of a scaled lab: how many times slower it is than what it stands for; workers "
        "then wait until so many times the processor time of their computing has passed",
    )
    congestion_control: str | None = Field(
        default=None, description="what the workers' TCP connections really used"
    )

    workload: str = Field(description="model and data set, or that its compute was emulated")
    compression: str = Field(description="'dense' or the compressor's name")
    density: float = Field(gt=0, le=1, description="fraction of gradient elements sent")
    averaging: str | None = Field(
        default=None, description="the averaging rule's text form; None in records that do not say"
    )
    every: PositiveInt = Field(
        default=1,
        description="H: steps of a rank's own from one exchange to the next; if above 1, times are "
        "means over the steps of whole rounds",
    )
    seed: int
    batch_size_per_worker: PositiveInt
    batch_shares: tuple[PositiveInt, ...] = Field(default=(), description="of unequal workers")
    rung: str | None = Field(default=None, description="of a ladder: what the variant is called")
    job: str | None = Field(
        default=None, description="fingerprint of all settings: the same job has the same one"
    )
    workers: Literal["processes", "virtual"] = Field(
        default="processes",
        description="virtual: all workers took turns in one process, with the arithmetic of real "
        "ones; step_time_s and samples_per_s are that process's, phases one worker's turn, and "
        "nobody waited: no measure of a cluster",
    )

    load: NonNegativeFloat | None = Field(
        default=None,
        description="runnable processes of the machine, mean of the minute before a measured run "
        "ended (its load average)",
    )
    num_steps: NonNegativeInt = Field(description="training steps behind a measured record")
    step_time_s: NonNegativeFloat = Field(
        description="median time of one training step; the mean if steps differ by design, as with "
        "local steps or over a topology that changes"
    )
    phases: Phases
    samples_per_s: NonNegativeFloat = Field(description="all workers together")

    gradient_bytes: NonNegativeInt = Field(description="one worker's dense fp32 gradient")
    compressed_bytes: NonNegativeFloat = Field(
        description="one worker's own gradient as encoded, indices included, after the warm-up"
    )
    wire_bytes_per_step: NonNegativeFloat = Field(
        description="bytes the busiest rank sends in one step, after the warm-up; where ranks do "
        "not exchange in every step, the mean over the steps"
    )
    wire_bytes_per_sample: NonNegativeFloat | None = Field(
        default=None,
        description="the same for each image or token that a rank trains on; None in records that "
        "do not say",
    )
    interface_bytes_per_step: NonNegativeFloat | None = Field(
        default=None,
        description="bytes the busiest rank's interface counts in one step: what it sends, with "
        "headers, and its acknowledgements of what it receives",
    )
    messages_per_step: NonNegativeFloat | None = Field(
        description="messages the busiest rank sends; None if the backend sends them uncounted"
    )

    sparse: SparseSizes | None = Field(default=None, description="only if density is below 1")
    solo_phases: Phases | None = Field(
        default=None, description="a step of one worker that had the machine to itself"
    )
    crowd_phases: Phases | None = Field(
        default=None,
        description="the same of workers who share a machine, as in a lab, while all of them are "
        "at it and nobody communicates (of each step's slowest worker if all exchange in each; "
        "else, and in records from before December 2026, the mean of the workers)",
    )
    bucket_bytes: NonNegativeFloat | None = Field(
        default=None,
        description="float32 bytes of a bucket of gradients that travelled while the backward "
        "pass went on; None if all travelled after it",
    )
    profile: RecordedProfile | None = Field(
        default=None, description="of that step: when which gradients are complete"
    )

    quality: Quality | None = None
    staleness: StalenessCounts | None = Field(
        default=None, description="only if the scenario asks for it: compression.track_ages"
    )
    models: ModelFiles | None = Field(
        default=None, description="the model of the last evaluation, and of the best one"
    )
    resumed_at: tuple[NonNegativeInt, ...] = Field(
        default=(), description="steps after which the training went on from a checkpoint"
    )
    lost_ranks: tuple[LostRank, ...] = Field(
        default=(), description="in the order in which they were lost; num_workers are left"
    )
    restarts: NonNegativeInt = Field(
        default=0, description="times that all workers were started again because one was lost"
    )
    lost_steps: NonNegativeInt | None = Field(
        default=None,
        description="steps repeated after them, those under way included; None if nobody counted",
    )
    diverged_at_step: NonNegativeInt | None = Field(
        default=None, description="where the loss stopped being finite, and with it the training"
    )
    parameters: str | None = Field(
        default=None, description="SHA-256 of the final parameters' bits, the same on every rank"
    )
    speedup: NonNegativeFloat | None = Field(
        default=None,
        description=f"predicted throughput over that of {ONE_DENSE_WORKER}; of solo_phases alone, "
        "whatever a file says",
    )
    overlap: bool | None = Field(
        default=None,
        description="predicted gradients travelled while the backward pass went on; None in "
        "records that do not say",
    )

    communication_s: NonNegativeFloat | None = Field(
        default=None, description="time for which messages were under way, hidden or not"
    )
    exposed_communication_s: NonNegativeFloat | None = Field(
        default=None, description="the part of it behind which nothing was computed"
    )
    straggler_wait_s: NonNegativeFloat | None = Field(
        default=None, description="waiting for workers that compute longer (mean of the workers)"
    )
    bound_by: str | None = Field(
        default=None, description="what the step cannot be faster than: a link, a CPU, compute"
    )

    @model_validator(mode="before")
    @classmethod
    def _is_of_a_known_version(cls, keys: object) -> object:
        version = keys.get("schema_version") if isinstance(keys, dict) else None
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise PydanticCustomError(
                "version",
                "schema_version {version}: a newer dgc-topo wrote this record, this one knows "
                "versions up to {known}; update dgc-topo",
                {"version": version, "known": SCHEMA_VERSION},
            )
        return keys

    @model_validator(mode="after")
    def _is_relative_to_one_dense_worker(self) -> Self:
        """Derive a prediction's speed-up from the record itself, or leave it out."""
        if self.kind == "predicted":
            solo, speedup = self.solo_phases, nan
            if solo is not None and self.step_time_s:
                alone_s = solo.compute_s + solo.update_s
                speedup = self.num_batches * alone_s / self.step_time_s
            # Frozen from here on.
            self.__dict__["speedup"] = speedup if isfinite(speedup) else None
        return self

    def __repr__(self) -> str:
        """Return a short text: the run, its place, and the time of a step."""
        return (
            f"Measurement({self.kind}: {self.workload}, {self.topology}, {self.compression} "
            f"{self.density:g}, {self.world_size} ranks on {self.network}, "
            f"{1e3 * self.step_time_s:.4g} ms/step)"
        )

    @property
    def num_batches(self) -> float:
        """Number of batches of the largest worker's size that all workers have in a step."""
        shares = self.batch_shares
        return sum(shares) / max(shares) if shares else self.num_workers

    @property
    def is_dense(self) -> bool:
        """True if every element is sent, in whatever type."""
        return self.compression.split("-")[0] == "dense" or self.compression in {"ddp", "ddp-fp16"}

    @property
    def compression_ratio(self) -> float:
        """Dense bytes over encoded bytes of one worker's gradient, indices included."""
        return self.gradient_bytes / self.compressed_bytes if self.compressed_bytes else 1.0

    @property
    def scaling_efficiency(self) -> float | None:
        """Speed-up per worker, 1 at best."""
        return None if self.speedup is None else self.speedup / self.num_workers
