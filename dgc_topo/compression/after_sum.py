"""Momentum SGD after the sum, and the base class of compressors that keep no residual."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dgc_topo.compression.compressor import (
    check_owner,
    dense_part,
    position_of,
    restore,
    snapshot,
)
from dgc_topo.compression.gradients import Gradients, checked_norm, whole_gradients
from dgc_topo.compression.layout import FlatLayout
from dgc_topo.compression.parameters import (
    Parameters,
    check_parameters,
    is_frozen,
    named_parameters,
)
from dgc_topo.compression.values import FLOAT32_MAX, check_epoch, checked_settings, make_plain
from dgc_topo.payload import BundlePayload, DensePayload, Payload
from dgc_topo.scalars import plain_int
from dgc_topo.sizes import FLOAT_BYTES, is_compressed


def check_sgd(
    where: str, *, momentum: float, nesterov: bool, weight_decay: float, clip_norm: float | None
) -> None:
    """Refuse settings that make no sense.

    Raises:
        ValueError: naming *where* and the setting.
    """
    if not 0 <= momentum < 1 or (nesterov and not momentum):
        expected = "0 < momentum < 1 with nesterov" if nesterov else "0 <= momentum < 1"
        raise ValueError(f"{where}: momentum {momentum}, expected {expected}")
    if not 0 <= weight_decay <= FLOAT32_MAX:
        raise ValueError(f"{where}: weight_decay {weight_decay}, expected at least 0")
    if clip_norm is not None and not 0 < clip_norm < math.inf:
        raise ValueError(f"{where}: clip_norm {clip_norm}, expected above 0, or None")


def clip_by_norm(gradient: Tensor, clip_norm: float) -> None:
    """Scale *gradient* in place so that its L2 norm is at most *clip_norm*.

    Works on the device, without synchronising.  If the norm overflows float32, the right factor is
    unknown: the gradient becomes NaN, which the next loss shows, rather than silently 0.
    """
    norm = torch.linalg.vector_norm(gradient)
    factor = (clip_norm / norm).clamp(max=1.0)  # a norm of 0 gives infinity, hence 1
    gradient.mul_(torch.where(norm < math.inf, factor, math.nan))


class MomentumSGD:
    """Turn the gradient summed over all ranks into an update, as torch.optim.SGD does.

    ``d = g + weight_decay * w;  b = momentum * b + d;`` the update is ``b``, or with Nesterov
    ``d + momentum * b``.  Decoupled weight decay leaves ``d = g`` and adds ``weight_decay * w``
    to the update.  The buffer b is float32 whatever the parameters are.

    Args:
        parameters: Live parameters; read for weight decay.
        device: Device of the parameters and the buffer.
        momentum: m, from 0 to below 1; 0 keeps no buffer.
        nesterov: Look ahead by one step of momentum.
        weight_decay: Factor on the parameters, at least 0.
        decoupled: Keep weight decay out of the momentum.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        device: torch.device,
        *,
        momentum: float,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        decoupled: bool = False,
    ) -> None:
        self.layout = FlatLayout.of(parameters)
        self._parameters = parameters
        self._momentum = momentum
        self._nesterov = nesterov
        self._weight_decay = weight_decay
        self._decoupled = decoupled
        length = self.layout.length if momentum else 0
        self._buffer = torch.zeros(length, dtype=torch.float32, device=device)

    @torch.no_grad()
    def update(self, gradient: Tensor) -> Tensor:
        """Return the update for a summed gradient; one call per step.

        Args:
            gradient: Shape (length,), float32; overwritten by the update.
        """
        if not self._decoupled:
            self._add_decay(gradient)
        if self._momentum:
            self._buffer.mul_(self._momentum).add_(gradient)
            if self._nesterov:
                gradient.add_(self._buffer, alpha=self._momentum)
            else:
                gradient.copy_(self._buffer)
        if self._decoupled:
            self._add_decay(gradient)
        return gradient

    def buffers(self) -> dict[str, Tensor]:
        """Return the momentum of each parameter, sharing memory; none if momentum is 0."""
        return self.layout.views(self._buffer) if self._momentum else {}

    def _add_decay(self, flat: Tensor) -> None:
        if self._weight_decay:
            for name, view in self.layout.views(flat).items():
                if not is_frozen(self._parameters[name]):
                    view.add_(self._parameters[name], alpha=self._weight_decay)


@dataclass(frozen=True, slots=True, kw_only=True)
class SGDSettings:
    """Momentum SGD on the sum of all workers' gradients, as in ordinary data-parallel training.

    Attributes:
        momentum: From 0 to below 1; with 0 the optimizer may have momentum of its own.
        nesterov: Look ahead by one step of momentum.
        weight_decay: Factor on the parameters, at least 0.
        decoupled_weight_decay: Keep weight decay out of the momentum.
        clip_norm: Bound on the L2 norm of the summed gradient; None does not clip.

    Raises:
        ValueError: if a setting is out of range.
    """

    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    decoupled_weight_decay: bool = False
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        make_plain("sgd", self)
        check_sgd(
            "sgd",
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
        )


class AfterSum(ABC):
    """Base of compressors without a residual: 1-D tensors travel dense, the rest is encoded.

    Args:
        parameters: A module, tensors by name, or pairs such as ``model.named_parameters()``, all on
            one device.
        sgd: Settings of the momentum SGD that follows the sum.
        seed: Seed of the random numbers; the same on every rank.

    Raises:
        ValueError: if the parameters do not fit together.
    """

    name: str

    def __init__(
        self, parameters: Parameters, sgd: SGDSettings | None = None, seed: int = 0
    ) -> None:
        self._sgd = sgd = checked_settings(self.name, sgd, SGDSettings)
        self._parameters = named_parameters(self.name, parameters)
        self._device = check_parameters(self.name, self._parameters)
        self._seed = plain_int(f"{self.name}: seed", seed)
        if self._seed < 0:
            raise ValueError(f"{self.name}: seed {seed}, expected at least 0")
        self.step = 0  #: steps compressed so far
        compressed = {n: p for n, p in self._parameters.items() if is_compressed(p.shape)}
        others = {n: p for n, p in self._parameters.items() if n not in compressed}
        self._compressed, self._others = FlatLayout.of(compressed), FlatLayout.of(others)
        self._rule = MomentumSGD(
            {**compressed, **others},
            self._device,
            momentum=sgd.momentum,
            nesterov=sgd.nesterov,
            weight_decay=sgd.weight_decay,
            decoupled=sgd.decoupled_weight_decay,
        )
        self.owns_momentum = sgd.momentum > 0

    def __repr__(self) -> str:
        compressed, others = self._compressed.length, self._others.length
        kind = type(self).__name__
        return f"{kind}({compressed:,} of {compressed + others:,} elements compressed)"

    @property
    @abstractmethod
    def density(self) -> float:
        """Fraction of each compressed tensor's elements that is sent."""

    def set_progress(self, epoch: float) -> None:
        """Check *epoch*; these compressors have no warm-up."""
        check_epoch(self.name, epoch)

    @torch.no_grad()
    def compress(self, gradients: Gradients) -> BundlePayload:
        """Return this rank's contribution; the remainder of the gradient is dropped.

        Raises:
            ValueError: as `Compressor.compress`.
            NonFiniteGradientError: if a gradient holds NaN or infinity.
        """
        whole = whole_gradients(self.name, gradients, self._parameters)
        checked_norm(self.name, whole)
        self.step += 1
        sent = self._encode(self._compressed.flatten(whole, self._device))
        return BundlePayload([sent, DensePayload(self._others.flatten(whole, self._device))])

    def neutral(self) -> BundlePayload:
        """Return a payload that adds nothing; call it in the step of the others' `compress`."""
        self.step += 1
        others = torch.zeros(self._others.length, dtype=torch.float32, device=self._device)
        return BundlePayload([self._nothing(), DensePayload(others)])

    @torch.no_grad()
    def finish(self, payload: Payload) -> dict[str, Tensor]:
        """Return the updates: clip, add weight decay, apply momentum."""
        match payload:
            case BundlePayload(parts=[sent, others]):
                gradient = torch.cat([self._decode(sent), self._dense(others)])
            case _:
                raise ValueError(
                    f"{self.name}: summed payload is {type(payload).__name__}, expected a sum of "
                    "what compress returned (a bundle of two parts)"
                )
        if self._sgd.clip_norm is not None:
            clip_by_norm(gradient, self._sgd.clip_norm)
        views = self._rule.layout.views(self._rule.update(gradient))
        return {name: views[name] for name in self._parameters}

    def describe(self) -> str:
        """Describe which tensors are compressed and which are not, with their bytes."""
        with torch.no_grad():
            zeros = torch.zeros(self._compressed.length, dtype=torch.float32, device=self._device)
            num_bytes = self._encode(zeros).encoded_bytes()
        others = self._others.length
        return (
            f"{self.name} sends {self._compressed.length:,} elements of "
            f"{len(self._compressed.names)} tensors in {num_bytes:,} bytes, and {others:,} "
            f"elements of {len(self._others.names)} tensors dense in {FLOAT_BYTES * others:,} bytes"
        )

    def state_dict(self) -> dict[str, object]:
        """Return the step and copies of the momentum by parameter name."""
        sections = snapshot({"momentum": self._rule.buffers()})
        return {"compressor": self.name, "step": self.step, **sections}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Continue from a snapshot, bit for bit."""
        check_owner(self.name, state)
        step, _ = position_of(self.name, state)
        restore(self.name, state, {"momentum": self._rule.buffers()})
        self.step = step

    @abstractmethod
    def _encode(self, gradient: Tensor) -> Payload:
        """Return the payload of the compressed tensors, shape (length,), for the current `step`."""

    @abstractmethod
    def _nothing(self) -> Payload:
        """Return a payload that adds nothing to a sum of payloads from `_encode`."""

    @abstractmethod
    def _decode(self, payload: Payload) -> Tensor:
        """Return the sum as a new float32 tensor, shape (length,)."""

    def _dense(self, payload: Payload) -> Tensor:
        return dense_part(self.name, payload, self._others.length)
