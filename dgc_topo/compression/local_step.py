"""One step of DGC before the sum: check and clip the gradient, accumulate, select, mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor

from dgc_topo.compression.accumulation import Accumulation
from dgc_topo.compression.gradients import (
    NonFiniteGradientError,
    QuickNorm,
    checked_norm,
    clip_factor,
)
from dgc_topo.compression.selection import Selector
from dgc_topo.sizes import is_sparse
from dgc_topo.wire.coding import WireCoding
from dgc_topo.wire.scales import Scales, rounded
from dgc_topo.wire.tensors import TORCH_DTYPES

#: Phases in order; the last one belongs to the payload, unless the message exists already.
PHASES = ("check", "accumulate", "select", "mask", "encode")

Term = tuple[Mapping[str, Tensor], float]


class Sent(NamedTuple):
    """Elements that a step sends.

    Attributes:
        indices: Shape (n,), int64, strictly ascending.
        values: Shape (n,), float32, as the wire can hold them.
        message: The same elements in the wire format, if a kernel has written them already.
        scales: Scales of the values, if they are coarse.
    """

    indices: Tensor
    values: Tensor
    message: Tensor | None
    scales: Scales | None = None


class LocalStep:
    """The phases of a step, one after the other.

    Args:
        where: Name of the compressor in errors.
        accumulation: Velocity and residual.
        selector: Picks what is sent.
        norm: Fast norm of the gradient, or None.
        coding: Coding of messages.
    """

    def __init__(
        self,
        where: str,
        accumulation: Accumulation,
        selector: Selector,
        norm: QuickNorm | None,
        coding: WireCoding,
    ) -> None:
        self.where = where
        self.accumulation = accumulation
        self.selector = selector
        self.on_phase: Callable[[str], None] = (
            _ignore  #: called with the name of each phase that ends
        )
        self.in_phases = (
            False  #: True to launch phases one by one even where one launch could do all
        )
        self._norm = norm
        self._coding = coding
        self._wire_dtype = TORCH_DTYPES[coding.dense_dtype]

    def accumulate(
        self,
        gradients: Mapping[str, Tensor],
        density: float,
        *,
        clip_norm: float | None = None,
        decay: Term | None = None,
    ) -> float | Tensor:
        """Accumulate a gradient, clipped, and the weight decay.

        Args:
            gradients: Gradients by name; those that are not compressed still count in the norm, and
                are checked.
            density: Fraction that is going to be sent.
            clip_norm: Bound on the L2 norm over all gradients together.
            decay: Weight decay, as another term of the sum.

        Returns:
            The factor by which the gradients were clipped; shape () if it is a tensor.

        Raises:
            NonFiniteGradientError: if an element is NaN or infinite; nothing has changed then.
                If only the GPU knows yet, `sent` raises it instead.
        """
        norm = checked_norm(self.where, gradients, self._norm)
        factor = clip_factor(norm, clip_norm)
        if not self.accumulation.has_room(norm * factor):
            self._look_for_room(gradients, factor)
        self.on_phase("check")
        pool = self.selector.begin(density) if is_sparse(density) else None
        terms = (gradients, factor), *(() if decay is None else (decay,))
        self.accumulation.add(*terms, pool=pool)
        self.on_phase("accumulate")
        return factor

    def _look_for_room(self, gradients: Mapping[str, Tensor], factor: float) -> None:
        """Refuse the gradient if its largest element would overflow the state."""
        largest = max(float(g.abs().max()) for g in gradients.values() if g.numel()) * factor
        if not self.accumulation.has_room(largest):
            raise NonFiniteGradientError(
                f"{self.where}: gradient of up to {largest:g}, expected less: residuals near the "
                "end of float32 would overflow; lower the learning rate or the loss scale"
            )

    def sent(self, density: float) -> Sent:
        """Return the elements to send, and remove them from the state; once after `accumulate`.

        Raises:
            NonFiniteGradientError: as `accumulate`.
        """
        indices = self.selector.pick(self.accumulation.residual, density)
        self.on_phase("select")
        if self._coding.is_coarse:
            sent = self._coarse(indices)
        else:
            sent = Sent(indices, self.accumulation.send(indices, self._wire_dtype), None)
        self.on_phase("mask")
        return sent

    def _coarse(self, indices: Tensor) -> Sent:
        """Take elements as steps of their layers' scales; what rounding misses stays."""
        taken = self.accumulation.take(indices)
        bounds = self.accumulation.layout.inner_bounds
        values, scales = rounded(indices, taken, bounds, self._coding.wire_dtype)
        self.accumulation.give_back(indices, taken - values)
        return Sent(indices, values, None, scales)


def _ignore(_: str) -> None:
    pass
