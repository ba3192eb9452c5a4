"""TernGrad: every element becomes -1, 0 or 1 times a scale, at random and unbiased.

Wen, Xu, Yan, Wu, Wang, Chen, Li: TernGrad, NeurIPS 2017.  Per layer, with s the largest magnitude::

    send  s * sign(g) * b,   b = 1 with probability abs(g) / s, else 0

whose expectation is g.  Clipping each layer at 2.5 standard deviations first, as the paper does,
makes s smaller, hence the variance; what it cuts off is a bias.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dgc_topo.compression.after_sum import AfterSum, SGDSettings
from dgc_topo.compression.parameters import Parameters
from dgc_topo.payload import Payload, Ternary, TernaryPayload
from dgc_topo.scalars import plain_float, plain_int
from dgc_topo.seeds import stream_seed


class TernGrad(AfterSum):
    """One rank's TernGrad compressor; ordinary momentum follows the sum.

    Args:
        parameters: A module, tensors by name, or pairs such as ``model.named_parameters()``, all on
            one device.
        rank: Rank whose gradients these are: every rank draws other random numbers.
        sgd: Settings of the momentum SGD that follows the sum.
        clip_sigmas: Clip each layer at this many of its standard deviations (around 0); None does
            not clip, and is unbiased.
        seed: Seed of the random numbers.

    Raises:
        ValueError: if a setting is out of range, or the parameters do not fit together.

    Example:
        >>> import torch
        >>> terngrad = dt.TernGrad(torch.nn.Linear(100, 10), rank=0)
        >>> payload = terngrad.compress({"weight": torch.rand(10, 100), "bias": torch.rand(10)})
        >>> sorted(terngrad.finish(payload))
        ['bias', 'weight']
    """

    name = "terngrad"

    def __init__(
        self,
        parameters: Parameters,
        *,
        rank: int,
        sgd: SGDSettings | None = None,
        clip_sigmas: float | None = 2.5,
        seed: int = 0,
    ) -> None:
        if clip_sigmas is not None:
            clip_sigmas = plain_float("terngrad: clip_sigmas", clip_sigmas)
        if clip_sigmas is not None and not 0 < clip_sigmas < math.inf:
            raise ValueError(f"terngrad: clip_sigmas {clip_sigmas}, expected above 0, or None")
        super().__init__(parameters, sgd, seed)
        self._rank = plain_int("terngrad: rank", rank)
        if self._rank < 0:
            raise ValueError(f"terngrad: rank {rank}, expected at least 0")
        self._clip_sigmas = clip_sigmas

    @property
    def density(self) -> float:
        """Return 1: every element is sent, in two bits."""
        return 1.0

    def _encode(self, gradient: Tensor) -> Payload:
        generator = self._generator()
        num_layers = len(self._compressed.names)
        scales = torch.zeros(num_layers, dtype=torch.float32, device=self._device)
        codes = torch.zeros(len(gradient), dtype=torch.uint8, device=self._device)
        for layer, (_, place) in enumerate(self._compressed.slices()):
            part = gradient[place]
            if self._clip_sigmas is not None:
                bound = self._clip_sigmas * _root_mean_square(part)
                part = torch.minimum(torch.maximum(part, -bound), bound)
            scales[layer] = scale = part.abs().max() if len(part) else part.new_zeros(())
            draws = torch.rand(
                len(part), generator=generator, dtype=torch.float32, device=self._device
            )
            # A product would round to the scale where that is tiny; 0 / 0 is not above anything.
            kept = draws < part.abs() / scale
            codes[place] = kept * torch.where(part < 0, 2, 1)
        return TernaryPayload({self._rank: Ternary(scales, codes)}, self._offsets, self._device)

    def _nothing(self) -> Payload:
        return TernaryPayload({}, self._offsets, self._device)

    def _decode(self, payload: Payload) -> Tensor:
        if not isinstance(payload, TernaryPayload) or payload.length != self._compressed.length:
            raise ValueError(
                f"terngrad: summed payload is {type(payload).__name__}, expected a sum of what "
                f"compress returned ({self._compressed.length} ternary elements)"
            )
        return payload.to_dense()

    @property
    def _offsets(self) -> tuple[int, ...]:
        return self._compressed.offsets

    def _generator(self) -> torch.Generator:
        seed = stream_seed(self._seed, self._rank, self.step)
        return torch.Generator(self._device).manual_seed(seed)


def _root_mean_square(values: Tensor) -> Tensor:
    """Return the root of the mean of the squares, which of tiny values are 0 in float32."""
    if not len(values):
        return values.new_zeros(())
    largest = values.abs().max().clamp(min=torch.finfo(values.dtype).tiny)
    return largest * (values / largest).square().mean().sqrt()
