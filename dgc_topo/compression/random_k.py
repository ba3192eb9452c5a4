"""Random-k: the same random elements on every rank, so that only their values travel.

All ranks draw the places from the same seed and step.  No index is sent, therefore, and the values
add up like a short dense buffer.  An element is drawn with probability k / n, so scaling by n / k
of each layer makes the sum unbiased.  (Stich, Cordonnier, Jaggi, NeurIPS 2018, without their
memory.)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dgc_topo.compression.after_sum import AfterSum, SGDSettings
from dgc_topo.compression.compressor import dense_part
from dgc_topo.compression.parameters import Parameters
from dgc_topo.payload import SUM, DensePayload, Payload
from dgc_topo.scalars import plain_float
from dgc_topo.sizes import entries_of
from dgc_topo.units import fraction_from


class RandomK(AfterSum):
    """One rank's random-k compressor; ordinary momentum follows the sum.

    Args:
        parameters: A module, tensors by name, or pairs such as ``model.named_parameters()``, all on
            one device.
        density: Fraction of each compressed tensor that is sent, above 0, at most 1,
            such as 0.001 or "0.1%".
        sgd: Settings of the momentum SGD that follows the sum.
        seed: Seed of the places; the same on every rank.

    Raises:
        ValueError: if *density* is out of range, or the parameters do not fit together.

    Example:
        >>> import torch
        >>> random_k = dt.RandomK(torch.nn.Linear(100, 10), density="1%")
        >>> payload = random_k.compress({"weight": torch.rand(10, 100), "bias": torch.rand(10)})
        >>> sorted(random_k.finish(payload))
        ['bias', 'weight']
    """

    name = "random-k"

    def __init__(
        self,
        parameters: Parameters,
        *,
        density: float | str,
        sgd: SGDSettings | None = None,
        seed: int = 0,
    ) -> None:
        if isinstance(density, str):
            density = fraction_from(density, "random-k: density")
        density = plain_float("random-k: density", density)
        if not 0 < density <= 1:
            raise ValueError(f"random-k: density {density}, expected above 0, at most 1")
        super().__init__(parameters, sgd, seed)
        self._density = density
        self._counts = [
            entries_of(place.stop - place.start, density) for _, place in self._compressed.slices()
        ]
        scales = [
            (place.stop - place.start) / max(count, 1)
            for count, (_, place) in zip(self._counts, self._compressed.slices(), strict=True)
        ]
        self._scales = torch.repeat_interleave(
            torch.tensor(scales, dtype=torch.float32, device=self._device),
            torch.tensor(self._counts, dtype=torch.int64, device=self._device),
        )

    @property
    def density(self) -> float:
        """Fraction of each compressed tensor's elements that is sent."""
        return self._density

    def _encode(self, gradient: Tensor) -> Payload:
        return DensePayload(gradient[self._places()], goals=SUM)

    def _nothing(self) -> Payload:
        return DensePayload(torch.zeros_like(self._scales), goals=SUM)

    def _decode(self, payload: Payload) -> Tensor:
        values = dense_part(self.name, payload, sum(self._counts))
        scaled = values * self._scales
        if bool((scaled.isinf() & values.isfinite()).any()):
            raise ValueError(
                "random-k: sum times elements over elements sent overflows float32, expected "
                "smaller gradients, or a higher density"
            )
        length = self._compressed.length
        gradient = torch.zeros(length, dtype=torch.float32, device=self._device)
        gradient[self._places()] = scaled
        return gradient

    def _places(self) -> Tensor:
        """Return this step's places in the concatenation of the compressed tensors."""
        picked = [
            place.start + self._draw(layer, place.stop - place.start, count)
            for layer, (count, (_, place)) in enumerate(
                zip(self._counts, self._compressed.slices(), strict=True)
            )
        ]
        places = np.concatenate(picked) if picked else np.empty(0, np.int64)
        return torch.from_numpy(places).to(self._device)

    def _draw(self, layer: int, length: int, count: int) -> npt.NDArray[np.int64]:
        generator = np.random.default_rng([self._seed, self.step, layer])
        return np.sort(generator.choice(length, count, replace=False, shuffle=False))
