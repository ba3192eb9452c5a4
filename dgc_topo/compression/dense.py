"""No compression (`Dense`): the baseline for every compressor."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dgc_topo.compression.after_sum import MomentumSGD, check_sgd, clip_by_norm
from dgc_topo.compression.compressor import (
    check_owner,
    dense_part,
    restore,
    snapshot,
)
from dgc_topo.compression.gradients import Gradients, check_float32, whole_gradients
from dgc_topo.compression.layout import FlatBuffer
from dgc_topo.compression.parameters import Parameters, check_parameters, named_parameters
from dgc_topo.compression.values import check_epoch
from dgc_topo.payload import SUM, DensePayload, Payload
from dgc_topo.scalars import plain_bool, plain_float
from dgc_topo.wire.coding import DENSE_BYTES, WireDtype, check_dense_dtype


class Dense:
    """Send every element; the updates equal torch.optim.SGD on the mean gradient, up to rounding.

    Clipping, weight decay and momentum come after the sum, as in ordinary data-parallel training.

    Args:
        parameters: A module, tensors by name, or pairs such as ``model.named_parameters()``, all on
            one device.
        momentum: From 0 to below 1; with 0 the optimizer may have momentum of its own.
        nesterov: Look ahead by one step of momentum.
        weight_decay: Factor on the parameters, at least 0.
        decoupled_weight_decay: Keep weight decay out of the momentum.
        clip_norm: Bound on the L2 norm of the summed gradient; None does not clip.
        wire_dtype: Element type on the wire: ``float32``, ``float16`` or ``bfloat16``.

    Raises:
        ValueError: if a setting is out of range, or the parameters do not fit together.
    """

    name = "dense"
    density = 1.0

    def __init__(
        self,
        parameters: Parameters,
        *,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        clip_norm: float | None = None,
        wire_dtype: WireDtype = "float32",
    ) -> None:
        momentum = plain_float("dense: momentum", momentum)
        nesterov = plain_bool("dense: nesterov", nesterov)
        weight_decay = plain_float("dense: weight_decay", weight_decay)
        decoupled = plain_bool("dense: decoupled_weight_decay", decoupled_weight_decay)
        if clip_norm is not None:
            clip_norm = plain_float("dense: clip_norm", clip_norm)
        check_sgd(
            "dense",
            momentum=momentum,
            nesterov=nesterov,
            weight_decay=weight_decay,
            clip_norm=clip_norm,
        )
        self._parameters = named_parameters("dense", parameters)
        self._device = check_parameters("dense", self._parameters)
        self._clip_norm = clip_norm
        check_dense_dtype("dense", wire_dtype)
        self._wire_dtype = wire_dtype
        self._rule = MomentumSGD(
            self._parameters,
            self._device,
            momentum=momentum,
            nesterov=nesterov,
            weight_decay=weight_decay,
            decoupled=decoupled,
        )
        self.owns_momentum = momentum > 0
        self._sent = FlatBuffer(self._rule.layout, self._device)
        self._update = FlatBuffer(self._rule.layout, self._device)

    def __repr__(self) -> str:
        return f"Dense({self._rule.layout.length:,} elements, wire_dtype={self._wire_dtype!r})"

    def set_progress(self, epoch: float) -> None:
        """Check *epoch*; density never changes."""
        check_epoch(self.name, epoch)

    @torch.no_grad()
    def compress(self, gradients: Gradients) -> DensePayload:
        """Return all gradients as one flat buffer, in the order of the parameters.

        NaN and infinity travel on, as in ordinary data-parallel training.

        Raises:
            ValueError: as `Compressor.compress`.
            NonFiniteGradientError: if a float64 gradient holds finite numbers beyond float32.
        """
        whole = whole_gradients(self.name, gradients, self._parameters)
        check_float32(self.name, whole)
        return self._payload(self._sent.fill(whole))

    def neutral(self) -> DensePayload:
        """Return a payload of zeros."""
        length = self._rule.layout.length
        return self._payload(torch.zeros(length, dtype=torch.float32, device=self._device))

    @torch.no_grad()
    def finish(self, payload: Payload) -> dict[str, Tensor]:
        """Return the updates: clip, add weight decay, apply momentum."""
        total = dense_part(self.name, payload, self._rule.layout.length)
        gradient = self._update.flat.copy_(total)
        if self._clip_norm is not None:
            clip_by_norm(gradient, self._clip_norm)
        self._rule.update(gradient)
        return dict(self._update.views)

    def momenta(self) -> dict[str, Tensor]:
        """Return the live momentum by parameter name; empty if there is none."""
        return self._rule.buffers()

    def describe(self) -> str:
        """Describe the elements sent, and their bytes."""
        elements = self._rule.layout.length
        return (
            f"dense sends all {elements:,} elements of {len(self._parameters)} tensors as "
            f"{self._wire_dtype}: {elements * DENSE_BYTES[self._wire_dtype]:,} bytes per step"
        )

    def state_dict(self) -> dict[str, object]:
        """Return copies of the momentum by parameter name."""
        return {"compressor": self.name, **snapshot({"momentum": self._rule.buffers()})}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Continue from a snapshot, bit for bit."""
        check_owner(self.name, state)
        restore(self.name, state, {"momentum": self._rule.buffers()})

    def _payload(self, buffer: Tensor) -> DensePayload:
        return DensePayload(buffer, wire_dtype=self._wire_dtype, goals=SUM)
