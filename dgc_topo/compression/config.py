"""The settings of DGC, checked when they are made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from dgc_topo.compression.density import (
    StagedDensity,
    constant_density,
    geometric_warm_up,
    paper_warm_up,
)
from dgc_topo.compression.values import FLOAT32_MAX, make_plain
from dgc_topo.wire.coding import IndexChoice, WireCoding, WireDtype, check_names

WeightDecayMode = Literal["local", "separate", "decoupled"]
WarmUp = Literal["none", "paper", "geometric"]
SelectionName = Literal["exact", "sampled", "reused"]
Scope = Literal["layer", "model"]
Merge = Literal["union", "reselect"]
Clearing = Literal["never", "all", "stale"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DGCConfig:
    """What DGC does, the same on every rank.

    Raises:
        ValueError: if a value is out of range, as "where: what, expected what".
    """

    density: float = 0.001
    """Fraction of each compressed tensor that is sent after the warm-up; lower sends less."""

    momentum: float = 0.9
    """m of the momentum correction ``u = m*u + g``; from 0 to below 1."""

    nesterov: bool = False
    """Look ahead: ``u = m*(u + g); v = v + u + g``."""

    selection: SelectionName = "reused"
    """How the largest elements are found; all three send the same ones, bit for bit: ``exact`` asks
    torch.topk; ``sampled`` trims what exceeds a threshold taken from a sample (the paper; a GPU
    looks at all elements instead, which is faster there); ``reused`` takes the threshold from the
    last step while it lets enough through: the fastest."""

    scope: Scope = "layer"
    """Whether the largest of each ``layer`` are sent (the paper), or of the whole ``model``."""

    merge: Merge = "union"
    """What becomes of the merged sum: all of it is applied (``union``), or only as many elements as
    one rank sends, the largest; ranks take their own shares of the others back (``reselect``)."""

    accumulation: bool = True
    """Keep what is not sent for later.  Without it (naive sparsification) the rest of each gradient
    is dropped, and momentum is applied after the sum whatever *momentum_correction* says."""

    momentum_correction: bool = True
    """Accumulate velocities.  Without it (gradient dropping, Aji & Heafield 2017) the raw gradients
    are accumulated and ordinary momentum is applied after the sum."""

    masking: bool = True
    """Momentum factor masking: where an element is sent, its velocity becomes 0 as well."""

    clear_velocities: Clearing = "never"
    """Every *clear_every_steps* steps, zero ``all`` velocities (no bookkeeping), or only the
    ``stale`` ones, whose elements have not been sent in that time.  Residuals stay: no gradient is
    lost, only its momentum."""

    clear_every_steps: int = 1000
    """Steps between two clearings."""

    track_ages: bool = False
    """Remember when each element was last sent, for `DGC.staleness`; one int32 per element, which
    ``stale`` clearing needs as well."""

    clip_norm: float | None = None
    """Bound on the L2 norm of the *summed* gradient; each rank clips its own whole gradient at
    ``clip_norm * num_workers ** -0.5`` before it is accumulated.  None does not clip."""

    weight_decay: float = 0.0
    """Factor on the parameters, at least 0."""

    weight_decay_mode: WeightDecayMode = "local"
    """``local`` adds ``weight_decay / num_workers * w`` to each rank's gradient, after clipping and
    before it is accumulated; ``separate`` gives weight decay a dense momentum of its own, added
    after the sum (the authors' code; one more float32 per element); ``decoupled`` adds
    ``weight_decay * w`` to the update, outside any momentum.  Frozen parameters do not decay."""

    warm_up: WarmUp = "paper"
    """``paper`` (4 stages), ``geometric`` (*warm_up_stages*) or ``none``."""

    warm_up_epochs: float = 4.0
    """Length of the whole warm-up; the paper takes about 1 % of training."""

    warm_up_stages: int | None = None
    """Stages of the geometric warm-up; None is one per epoch, as in the authors' code."""

    wire_dtype: WireDtype = "float32"
    """Type of all values in messages.  With ``float16`` or ``bfloat16`` what rounding takes from
    a sent element of a compressed tensor stays in the residual.  So does what exceeds the type's
    range (65504 of ``float16``) over the number of ranks, so that no sum of them becomes infinite.
    Tensors that are not compressed have no residual: they are rounded, and become infinite, as in
    any dense 16-bit all-reduce."""

    index_encoding: IndexChoice = "auto"
    """How messages code the indices: ``run-length``, ``bit-packed``, ``bitmap``, ``int32``,
    ``dense`` (no indices), or for each message the smallest of them: ``auto``."""

    def __post_init__(self) -> None:
        make_plain("dgc config", self)
        _require("density", self.density, 0 < self.density <= 1, "0 < density <= 1")
        _require("momentum", self.momentum, 0 <= self.momentum < 1, "0 <= momentum < 1")
        if self.nesterov:
            _require("momentum", self.momentum, self.momentum > 0, "above 0 with nesterov")
        if self.clip_norm is not None:
            positive = 0 < self.clip_norm < math.inf
            _require("clip_norm", self.clip_norm, positive, "a finite number above 0, or None")
        decay_fits = 0 <= self.weight_decay <= FLOAT32_MAX
        _require("weight_decay", self.weight_decay, decay_fits, "a finite number of at least 0")
        _one_of("weight_decay_mode", self.weight_decay_mode, get_args(WeightDecayMode))
        _one_of("selection", self.selection, get_args(SelectionName))
        _one_of("scope", self.scope, get_args(Scope))
        _one_of("merge", self.merge, get_args(Merge))
        _one_of("clear_velocities", self.clear_velocities, get_args(Clearing))
        _require(
            "clear_every_steps", self.clear_every_steps, self.clear_every_steps >= 1, "at least 1"
        )
        _one_of("warm_up", self.warm_up, get_args(WarmUp))
        epochs_fit = 0 < self.warm_up_epochs < math.inf
        _require("warm_up_epochs", self.warm_up_epochs, epochs_fit, "a finite number above 0")
        stages = self.warm_up_stages
        _require("warm_up_stages", stages, stages is None or stages >= 1, "at least 1, or None")

        check_names("dgc config", self.index_encoding, self.wire_dtype)

    @property
    def coding(self) -> WireCoding:
        """How sparse messages are coded."""
        return WireCoding(self.index_encoding, self.wire_dtype)

    @property
    def corrects_momentum(self) -> bool:
        """Whether momentum comes before the selection; otherwise it comes after the sum."""
        return self.accumulation and self.momentum_correction

    @property
    def needs_ages(self) -> bool:
        """Whether anything asks when elements were last sent."""
        return self.track_ages or self.clear_velocities == "stale"

    def density_schedule(self) -> StagedDensity:
        """Return density as a function of the epoch."""
        match self.warm_up:
            case "paper":
                return paper_warm_up(self.density, self.warm_up_epochs)
            case "geometric":
                stages = self.warm_up_stages or max(1, round(self.warm_up_epochs))
                return geometric_warm_up(self.density, self.warm_up_epochs, stages)
            case "none":
                return constant_density(self.density)


def _require(key: str, value: object, fits: bool, expected: str) -> None:
    if not fits:
        raise ValueError(f"dgc config: {key} {value!r}, expected {expected}")


def _one_of(key: str, value: str, valid: tuple[str, ...]) -> None:
    _require(key, value, value in valid, "one of " + ", ".join(valid))
