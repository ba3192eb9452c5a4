"""One step of DGC up to what is sent: check and clip the gradient, accumulate, select, mask."""

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
from dgc_topo.wire.tensors import TORCH_DTYPES

#: In their order; the last one is the payload's, unless its message is there already.
PHASES = ("check", "accumulate", "select", "mask", "encode")

Term = tuple[Mapping[str, Tensor], float]


class Sent(NamedTuple):
    """Elements that a step sends.

    Attributes:
        indices: Shape (n,), int64, strictly ascending.
        values: Shape (n,), float32, as the wire can hold them.
        message: All of it in the wire format, if it is there already.
    """

    indices: Tensor
    values: Tensor
    message: Tensor | None


class LocalStep:
    """The phases of a step, one after the other.

    Args:
        where: What to call the compressor in an error.
        accumulation: Velocity and residual.
        selector: Picks what is sent.
        norm: A quick norm of the gradient, if there is one.
        coding: How messages are coded.
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
        self.on_phase: Callable[[str], None] = _ignore  #: told the name of each that ends
        self.in_phases = False  #: whether to keep them apart where they could be launched as one
        self._norm = norm
        self._coding = coding
        self._wire_dtype = TORCH_DTYPES[coding.wire_dtype]

    def accumulate(
        self,
        gradients: Mapping[str, Tensor],
        density: float,
        *,
        clip_norm: float | None = None,
        decay: Term | None = None,
    ) -> float | Tensor:
        """Accumulate a gradient, clipped, and what decays the weights.

        Args:
            gradients: By name; those of other parameters count in the norm, and to be checked.
            density: Fraction that is going to be sent.
            clip_norm: Bound on the L2 norm over all gradients together.
            decay: Another term.

        Returns:
            The factor by which the gradients were clipped; shape () if it is a tensor.

        Raises:
            NonFiniteGradientError: if an element is NaN or infinite; nothing has changed then.
                `sent` raises it where a GPU has to be waited for.
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
        """Refuse the gradient if its largest element, rather than its norm, is too large."""
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
        values = self.accumulation.send(indices, self._wire_dtype)
        self.on_phase("mask")
        return Sent(indices, values, None)


def _ignore(_: str) -> None:
    pass
