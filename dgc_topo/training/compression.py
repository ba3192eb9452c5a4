"""Section ``[compression]`` of a scenario: the method, and its settings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from dgc_topo.compression.config import (
    Clearing,
    DGCConfig,
    Scope,
    SelectionName,
    WarmUp,
    WeightDecayMode,
)
from dgc_topo.schedule.completion import Merge
from dgc_topo.sizes import is_sparse
from dgc_topo.tables.keys import Density, EachOnce
from dgc_topo.tables.table import Table
from dgc_topo.wire.coding import (
    COARSE_DTYPES,
    IndexChoice,
    WireCoding,
    WireDtype,
    check_names,
)

if TYPE_CHECKING:
    from dgc_topo.training.settings import TrainSection

Method = Literal["dgc", "terngrad", "random-k", "ddp", "ddp-fp16", "ddp-powersgd"]

_SEND_EVERYTHING: tuple[Method, ...] = ("terngrad", "ddp", "ddp-fp16", "ddp-powersgd")
#: Settings of a compressor of gradients, which one of steps does not have.
_OF_GRADIENTS = (
    "scope",
    "merge",
    "balance",
    "accumulation",
    "momentum_correction",
    "clipping",
    "masking",
    "clear_velocities",
    "track_ages",
)
_SETTINGS = {setting.name: setting for setting in fields(DGCConfig)}


def _described(settings: type) -> dict[str, str]:
    """Return the description of each attribute in a class's docstring."""
    _, _, rest = (inspect.getdoc(settings) or "").partition("Attributes:\n")
    attributes, _, _ = rest.partition("\n\n")
    found = re.finditer(r"^    (\w+): (.*?)(?=^    \w|\Z)", attributes, re.MULTILINE | re.DOTALL)
    return {name: " ".join(text.split()) for name, text in (each.groups() for each in found)}


_DESCRIPTIONS = _described(DGCConfig)


def _of_dgc(key: str) -> Any:
    """Declare a key by DGC's setting of that name: its default, bounds and description."""
    setting = _SETTINGS[key]
    return Field(default=setting.default, description=_DESCRIPTIONS.get(key), **setting.metadata)


class CompressionSection(Table):
    """Deep Gradient Compression, or another method; its density 1 is dense momentum SGD.

    The ddp methods train with PyTorch's DistributedDataParallel and its communication hooks, over
    the backend's own all-reduce instead of a topology.
    """

    #: True for settings of which others are elsewhere.
    is_part: ClassVar[bool] = False

    method: Method = Field(
        default="dgc",
        description="at density 1, dgc is dense momentum SGD; ddp ones use no topology",
    )
    densities: Annotated[tuple[Density, ...], EachOnce] = Field(
        default=(1.0,), min_length=1, description="fraction sent, such as '0.1%'; a run for each"
    )
    wire_dtype: WireDtype = _of_dgc("wire_dtype")
    index_encoding: IndexChoice = _of_dgc("index_encoding")
    warm_up: WarmUp = _of_dgc("warm_up")
    warm_up_epochs: float = _of_dgc("warm_up_epochs")
    selection: SelectionName = _of_dgc("selection")
    scope: Scope = _of_dgc("scope")
    merge: Merge = _of_dgc("merge")
    balance: bool = _of_dgc("balance")
    accumulation: bool = _of_dgc("accumulation")
    momentum_correction: bool = _of_dgc("momentum_correction")
    clipping: bool = Field(
        default=True, description="local, by train.clip_norm; dense training always clips by it"
    )
    masking: bool = _of_dgc("masking")
    clear_velocities: Clearing = _of_dgc("clear_velocities")
    clear_every_steps: int = _of_dgc("clear_every_steps")
    track_ages: bool = _of_dgc("track_ages")
    weight_decay_mode: WeightDecayMode = _of_dgc("weight_decay_mode")
    look_ahead: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="of optimizers other than sgd below density 1: share of a worker's unsent "
        "steps that is in the parameters when it takes its gradient",
    )
    powersgd_rank: int = Field(default=1, ge=1, description="of ddp-powersgd: higher sends more")
    powersgd_start_step: int = Field(
        default=10, ge=2, description="of ddp-powersgd: dense until this step"
    )

    @property
    def learns_from_sums(self) -> bool:
        """True if every rank has to look at every sum: what it took out, or where entries lie."""
        return self.merge != "union" or self.coding.is_coarse

    @property
    def uses_ddp(self) -> bool:
        """True if DistributedDataParallel does the communication."""
        return self.method.startswith("ddp")

    @property
    def is_dense(self) -> bool:
        """True if a run of it sends every element, in whatever type."""
        dense = {"dense", "ddp", "ddp-fp16"}
        return any(self.method_at(density) in dense for density in self.densities)

    def method_at(self, density: float) -> Method | Literal["dense"]:
        """Return the method at a density; ``dgc`` at density 1 is another algorithm: ``dense``."""
        return self.method if self.method != "dgc" or is_sparse(density) else "dense"

    def dgc_config(self, density: float, train: TrainSection) -> DGCConfig:
        """Return DGC's settings for a run with the optimizer of *train*."""
        shared = _SETTINGS.keys() & type(self).model_fields.keys()
        return DGCConfig(
            density=density,
            momentum=train.momentum,
            nesterov=train.nesterov,
            weight_decay=train.weight_decay,
            clip_norm=train.clip_norm if self.clipping else None,
            **{key: getattr(self, key) for key in shared},
        )

    @model_validator(mode="after")
    def _density_fits_method(self) -> Self:
        if self.method in _SEND_EVERYTHING and set(self.densities) != {1.0}:
            raise ValueError(f"method {self.method!r} sends every element: expected densities [1]")
        return self

    @model_validator(mode="after")
    def _coarse_values_have_a_residual(self) -> Self:
        dense = [density for density in self.densities if not is_sparse(density)]
        if self.wire_dtype in COARSE_DTYPES and dense and not self.is_part:
            raise ValueError(
                f"wire_dtype = {self.wire_dtype!r} with density 1, which sends all elements "
                "without a scale: expected densities below 1, or a type of 16 or 32 bits"
            )
        check_names("compression", self.index_encoding, self.wire_dtype)
        return self

    @model_validator(mode="after")
    def _keys_fit_method(self) -> Self:
        if self.method == "dgc":
            return self
        for key in ("wire_dtype", "scope", "merge", "balance"):
            default = type(self).model_fields[key].default
            if getattr(self, key) != default:
                raise ValueError(
                    f"{key} = {getattr(self, key)!r}: method {self.method!r} does not have it, "
                    f"expected {default!r}"
                )
        return self

    def check_warm_up(self, epochs: int) -> None:
        """Refuse a warm-up that lasts as long as the training.

        Raises:
            ValueError: if training ends before.
        """
        least = min(self.densities)
        warms_up = self.method_at(least) == "dgc" and self.warm_up != "none"
        if warms_up and self.warm_up_epochs >= epochs:
            raise ValueError(
                f"warm_up_epochs = {self.warm_up_epochs:g} with train.epochs = {epochs}: density "
                f"{least:g} is never reached, expected a shorter warm-up, or warm_up = 'none'"
            )

    def check_optimizer(self, train: TrainSection) -> None:
        """Refuse settings of SGD's compression beside another optimizer.

        Raises:
            ValueError: if they do not go with the optimizer of *train*.
        """
        if train.is_sgd:
            if self.look_ahead != type(self).model_fields["look_ahead"].default:
                raise ValueError(
                    f"look_ahead = {self.look_ahead:g} with train.optimizer = 'sgd': DGC has no "
                    "such setting, expected another optimizer"
                )
            return
        what = f"with train.optimizer = {train.optimizer!r}"
        if self.method in {"terngrad", "random-k"}:
            raise ValueError(f"method {self.method!r} {what}: expected 'dgc', or DDP's")
        compresses = is_sparse(min(self.densities))
        if compresses:
            self.check_no_gradients(what)
        self._refuse(("weight_decay_mode",), what)
        if compresses and train.overlap:
            raise ValueError(
                f"densities below 1 {what} and train.overlap = true: a worker's step is compressed "
                "when its backward pass is over, expected overlap = false"
            )

    def check_no_gradients(self, what: str) -> None:
        """Refuse settings that only the compression of gradients has.

        Args:
            what: What compresses each worker's own steps instead, for the error.

        Raises:
            ValueError: naming the first of them.
        """
        self._refuse(_OF_GRADIENTS, what)

    def _refuse(self, keys: Sequence[str], what: str) -> None:
        for key in keys:
            default = type(self).model_fields[key].default
            if getattr(self, key) != default:
                raise ValueError(
                    f"{key} = {getattr(self, key)!r} {what}: each worker's own step is "
                    f"compressed, which has no such setting; expected {default!r}"
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
        """Coding of sparse messages."""
        return WireCoding(self.index_encoding, self.wire_dtype)
