"""Keys of a scenario that say how gradients are compressed."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dgc_topo.tables.keys import Density, EachOnce
from dgc_topo.tables.table import Table
from dgc_topo.wire.coding import IndexChoice, WireCoding, WireDtype

Method = Literal["dgc", "terngrad", "random-k", "ddp", "ddp-fp16", "ddp-powersgd"]

Scope = Literal["layer", "model"]

_SEND_EVERYTHING: tuple[Method, ...] = ("terngrad", "ddp", "ddp-fp16", "ddp-powersgd")


class CompressionSection(Table):
    """Deep Gradient Compression, or another method; its density 1 is dense momentum SGD.

    The ddp methods train with PyTorch's DistributedDataParallel and its communication hooks, over
    the backend's own all-reduce instead of a topology.
    """

    method: Method = "dgc"
    densities: Annotated[tuple[Density, ...], EachOnce] = Field(default=(1.0,), min_length=1)
    wire_dtype: WireDtype = Field(default="float32", description="of all values in messages")
    index_encoding: IndexChoice = Field(
        default="auto", description="of sparse messages; auto is for each the smallest"
    )
    warm_up: Literal["none", "paper", "geometric"] = "paper"
    warm_up_epochs: float = Field(default=4.0, gt=0, description="length of the density warm-up")
    selection: Literal["exact", "sampled", "reused"] = Field(
        default="reused",
        description="how the largest elements are found; all send the same ones: by torch.topk, by "
        "a sampled threshold, or by that of the last step",
    )
    scope: Scope = Field(
        default="layer", description="whether layers send their largest, or the model as a whole"
    )
    merge: Literal["union", "reselect"] = Field(
        default="union",
        description="apply all of the merged sum, or only as many elements as one rank sends",
    )
    accumulation: bool = Field(default=True, description="keep what is not sent for later")
    momentum_correction: bool = Field(
        default=True, description="accumulate velocities, instead of momentum after the sum"
    )
    clipping: bool = Field(
        default=True, description="local, by train.clip_norm; dense training always clips by it"
    )
    masking: bool = Field(default=True, description="momentum factor masking")
    clear_velocities: Literal["never", "all", "stale"] = Field(
        default="never", description="zero all velocities, or the stale ones, now and then"
    )
    clear_every_steps: int = Field(default=1000, ge=1)
    track_ages: bool = Field(
        default=False, description="record how long elements wait until they are sent"
    )
    weight_decay_mode: Literal["local", "separate", "decoupled"] = "local"
    powersgd_rank: int = Field(default=1, ge=1, description="of ddp-powersgd: higher sends more")
    powersgd_start_step: int = Field(
        default=10, ge=2, description="of ddp-powersgd: dense until this step"
    )

    @property
    def uses_ddp(self) -> bool:
        """Whether DistributedDataParallel does the communication."""
        return self.method.startswith("ddp")

    @property
    def is_dense(self) -> bool:
        """Whether a run of it sends every element, in whatever type."""
        return self.method in {"dgc", "ddp", "ddp-fp16"} and 1.0 in self.densities

    @model_validator(mode="after")
    def _density_fits_method(self) -> Self:
        if self.method in _SEND_EVERYTHING and set(self.densities) != {1.0}:
            raise ValueError(f"method {self.method!r} sends every element: expected densities [1]")
        return self

    @model_validator(mode="after")
    def _keys_fit_method(self) -> Self:
        if self.method == "dgc":
            return self
        for key in ("wire_dtype", "scope", "merge"):
            default = type(self).model_fields[key].default
            if getattr(self, key) != default:
                raise ValueError(
                    f"{key} = {getattr(self, key)!r}: method {self.method!r} does not have it, "
                    f"expected {default!r}"
                )
        return self

    def check_warm_up(self, epochs: int) -> None:
        """Refuse a warm-up that the density asked for never comes after.

        Raises:
            ValueError: if training ends before.
        """
        least = min(self.densities)
        warms_up = self.method == "dgc" and self.warm_up != "none" and least < 1
        if warms_up and self.warm_up_epochs >= epochs:
            raise ValueError(
                f"warm_up_epochs = {self.warm_up_epochs:g} with train.epochs = {epochs}: density "
                f"{least:g} is never reached, expected a shorter warm-up, or warm_up = 'none'"
            )

    def check_buckets(self, bucket_mib: float | None) -> None:
        """Refuse what needs the whole gradient at once.

        Raises:
            ValueError: if buckets of it, of that size, can't be compressed one by one.
        """
        if self.method == "ddp-powersgd" and bucket_mib is not None:
            raise ValueError(
                f"method {self.method!r} with bucket_mib: the all-reduces of one bucket and the "
                "next would cross on Gloo, expected DDP's own buckets"
            )
        if self.method in {"terngrad", "random-k"}:
            raise ValueError(
                f"method {self.method!r} with train.overlap = true: expected 'dgc', or DDP's"
            )
        if self.scope != "layer":
            raise ValueError(
                f"scope {self.scope!r} with train.overlap = true: selects from the whole "
                "gradient, expected 'layer'"
            )

    @property
    def coding(self) -> WireCoding:
        """How sparse messages are coded."""
        return WireCoding(self.index_encoding, self.wire_dtype)
