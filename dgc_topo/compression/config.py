"""Settings of DGC (`DGCConfig`), checked when they are made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from difflib import get_close_matches
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from dgc_topo.compression.density import (
    StagedDensity,
    constant_density,
    geometric_warm_up,
    paper_warm_up,
)
from dgc_topo.compression.values import FLOAT32_MAX, checked_settings, make_plain
from dgc_topo.schedule.completion import Merge
from dgc_topo.sizes import is_sparse
from dgc_topo.units import fraction_from
from dgc_topo.wire.coding import IndexChoice, WireCoding, WireDtype, check_names

WeightDecayMode = Literal["local", "separate", "decoupled"]
WarmUp = Literal["none", "paper", "geometric"]
SelectionName = Literal["exact", "sampled", "reused"]
Scope = Literal["layer", "model"]
Clearing = Literal["never", "all", "stale"]


def _within(default: float | None, **bounds: float) -> Any:
    """Declare a number with its bounds ``gt``, ``ge``, ``lt`` and ``le``, as pydantic does."""
    return field(default=default, metadata=bounds)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class DGCConfig:
    """Settings of DGC, the same on every rank.

    Attributes:
        density: Fraction of each compressed tensor that is sent after the warm-up; lower sends
            less.  Text such as ``"0.1%"`` is taken, too.
        momentum: m of the momentum correction ``u = m*u + g``; from 0 to below 1.
        nesterov: Look ahead: ``u = m*(u + g); v = v + u + g``.
        selection: Way to find the largest elements.  All three send the same elements, bit for bit:
            ``exact`` uses torch.topk; ``sampled`` takes a threshold from a sample and keeps the
            largest elements above it (the paper; a GPU searches all elements instead, which is
            faster there); ``reused`` takes the threshold from the last step while enough elements
            exceed it, which is the fastest.
        scope: Range from which the largest elements are selected: each ``layer`` (the paper), or
            the whole ``model``.
        merge: Policy of the sum: ``union`` applies all of it.  ``reselect`` applies as many of its
            largest elements as one rank sends: whoever completes a chunk of the sum keeps the
            chunk's share *before* it is sent on, and takes the others back into its residual.
            ``auto`` does so only where less is sent then: chunks that nobody sends on stay whole,
            and a step whose entries would take no fewer bytes is dense as a whole.
        balance: Cut the sum into chunks with equal numbers of entries.  An exact sum takes two
            passes then: the first one finds the places of its entries.  With re-selection, chunks
            keep equal numbers in any case; balance lets what they keep follow earlier sums.
        accumulation: Keep unsent elements for later steps.  Without it (naive sparsification) they
            are dropped, and momentum is applied after the sum whatever *momentum_correction* says.
        momentum_correction: Accumulate velocities.  Without it (gradient dropping, Aji & Heafield
            2017) the raw gradients are accumulated and ordinary momentum is applied after the sum.
        masking: Momentum factor masking: where an element is sent, its velocity becomes 0 as well.
        clear_velocities: Velocities to set to zero every *clear_every_steps* steps: ``all`` (no
            bookkeeping), or only ``stale`` ones: those of elements not sent in that time.
            Residuals stay: momentum is lost, but no gradient.
        clear_every_steps: Steps between two clearings.
        track_ages: Remember when each element was last sent, for `DGC.staleness`; one int32 per
            element, which ``stale`` clearing needs as well.
        clip_norm: Bound on the L2 norm of the *summed* gradient; each rank clips its own whole
            gradient at ``clip_norm * num_workers ** -0.5`` before it is accumulated.  None does
            not clip.
        weight_decay: Factor on the parameters, at least 0.
        weight_decay_mode: Place of weight decay: ``local`` adds ``weight_decay / num_workers * w``
            to each rank's gradient, after clipping and before it is accumulated; ``separate``
            gives weight decay a dense momentum of its own, added after the sum (the authors' code;
            one more float32 per element); ``decoupled`` adds ``weight_decay * w`` to the update,
            outside any momentum.  Frozen parameters do not decay.
        warm_up: Density at the beginning: ``paper`` (4 stages), ``geometric`` (*warm_up_stages*) or
            ``none``.
        warm_up_epochs: Length of the whole warm-up; the paper takes about 1 % of training.
        warm_up_stages: Stages of the geometric warm-up; None is one per epoch, as in the authors'
            code.
        wire_dtype: Type of all values in messages.  With ``float16`` or ``bfloat16`` the rounding
            error of a sent element stays in the residual.  Each rank sends at most the type's
            largest number (65504 for ``float16``) divided by the number of ranks, so that no sum
            becomes infinite; the excess stays in the residual, too.  Tensors that are not
            compressed have no residual: they round, and can overflow, as in any dense 16-bit
            all-reduce.  With ``int8``, ``int4`` or ``int2`` a sent element is a sign and one of
            128, 8 or 2 magnitudes of its layer; what that misses, and what rounding a partial sum
            misses, stays in residuals, too.  A layer that would miss more than a quarter takes
            the next wider type.  What travels dense is ``bfloat16`` then.
        index_encoding: Coding of a sparse message's indices: ``run-length``, ``bit-packed``,
            ``bitmap``, ``int32``, ``rice``, ``dense`` (no indices), or for each message the
            smallest of them: ``auto``.

    Raises:
        ValueError: if a value is out of range, as "where: what, expected what".

    Example:
        >>> settings = dt.DGCConfig(density="0.1%", momentum=0.9, clip_norm=1.0)
        >>> settings.density
        0.001
    """

    density: float = _within(0.001, gt=0, le=1)
    momentum: float = _within(0.9, ge=0, lt=1)
    nesterov: bool = False
    selection: SelectionName = "reused"
    scope: Scope = "layer"
    merge: Merge = "union"
    balance: bool = False
    accumulation: bool = True
    momentum_correction: bool = True
    masking: bool = True
    clear_velocities: Clearing = "never"
    clear_every_steps: int = _within(1000, ge=1)
    track_ages: bool = False
    clip_norm: float | None = _within(None, gt=0)
    weight_decay: float = _within(0.0, ge=0)
    weight_decay_mode: WeightDecayMode = "local"
    warm_up: WarmUp = "paper"
    warm_up_epochs: float = _within(4.0, gt=0)
    warm_up_stages: int | None = _within(None, ge=1)
    wire_dtype: WireDtype = "float32"
    index_encoding: IndexChoice = "auto"

    def __post_init__(self) -> None:
        density: object = self.density
        if isinstance(density, str):
            plain = fraction_from(density, "dgc config: density")
            object.__setattr__(self, "density", plain)
        make_plain("dgc config", self)
        for setting in fields(self):
            _check(setting, getattr(self, setting.name))
        check_names("dgc config", self.index_encoding, self.wire_dtype)
        if self.coding.is_coarse and not is_sparse(self.density):
            raise ValueError(
                f"dgc config: wire_dtype {self.wire_dtype!r} with density 1, which sends all "
                "elements without a scale: expected a density below 1, or a type of 16 or 32 bits"
            )
        if self.nesterov and not self.momentum:
            raise ValueError(
                f"dgc config: momentum {self.momentum!r}, expected above 0 with nesterov"
            )
        if self.weight_decay > FLOAT32_MAX:
            expected = f"at most {FLOAT32_MAX:g}, as a float32 can hold"
            raise ValueError(f"dgc config: weight_decay {self.weight_decay}, expected {expected}")

    def __repr__(self) -> str:
        changed = (
            f"{each.name}={getattr(self, each.name)!r}"
            for each in fields(self)
            if getattr(self, each.name) != each.default
        )
        return f"DGCConfig({', '.join(changed)})"

    @property
    def coding(self) -> WireCoding:
        """Coding of sparse messages."""
        return WireCoding(self.index_encoding, self.wire_dtype)

    @property
    def corrects_momentum(self) -> bool:
        """True if momentum comes before the selection, False if it comes after the sum."""
        return self.accumulation and self.momentum_correction

    @property
    def needs_ages(self) -> bool:
        """True if some setting asks when elements were last sent."""
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


def config_of(config: DGCConfig | None, settings: Mapping[str, Any]) -> DGCConfig:
    """Return DGC's settings, which may be given as one object, by name, or not at all.

    Raises:
        ValueError: if they are given in both ways, or one is unknown or out of range.
    """
    known = [setting.name for setting in fields(DGCConfig)]
    for name in settings:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise ValueError(
                f"dgc: unknown setting {name!r}{hint}, expected one of {', '.join(known)}"
            )
    if config is not None and settings:
        raise ValueError(
            f"dgc: config and {', '.join(settings)}, expected one of both: a config or settings"
        )
    return DGCConfig(**settings) if settings else checked_settings("dgc", config, DGCConfig)


@cache
def _kinds() -> dict[str, Any]:
    """Return the annotation of each setting."""
    return get_type_hints(DGCConfig)


def _check(setting: Field[Any], value: Any) -> None:
    """Refuse a value that is not among a setting's choices, or is out of its bounds."""
    kind, bounds = _kinds()[setting.name], setting.metadata
    if get_origin(kind) is Literal:
        fits, expected = value in get_args(kind), "one of " + ", ".join(get_args(kind))
    else:
        or_none = type(None) in get_args(kind)
        fits = (or_none and value is None) or not bounds or _lies_within(value, bounds)
        expected = _bounds_text(setting.name, bounds, is_whole=int in (kind, *get_args(kind)))
        expected += ", or None" if or_none else ""
    if not fits:
        raise ValueError(f"dgc config: {setting.name} {value!r}, expected {expected}")


def _lies_within(value: float, bounds: Mapping[str, float]) -> bool:
    return (
        math.isfinite(value)
        and value > bounds.get("gt", -math.inf)
        and value >= bounds.get("ge", -math.inf)
        and value < bounds.get("lt", math.inf)
        and value <= bounds.get("le", math.inf)
    )


def _bounds_text(key: str, bounds: Mapping[str, float], *, is_whole: bool) -> str:
    """Return the range of a number, as errors print it after "expected"."""
    above, least = bounds.get("gt"), bounds.get("ge")
    below, most = bounds.get("lt"), bounds.get("le")
    if below is not None or most is not None:
        low = f"{above} < {key}" if above is not None else f"{least} <= {key}"
        return f"{low} < {below}" if below is not None else f"{low} <= {most}"
    if is_whole:
        return f"at least {least}"
    return (
        f"a finite number above {above}"
        if least is None
        else f"a finite number of at least {least}"
    )
