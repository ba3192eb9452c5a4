"""Flags that travel with a bucket: counts of ranks, known to all once they are summed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dgc_topo.payload import SUM, BundlePayload, DensePayload, Payload


class Flags:
    """Numbers of ranks for which something holds, beside a payload.

    Args:
        payload: What they travel with; a run of `bundle` sums its parts in place.
        own: 0 or 1 each, for this rank; shape (n,), any type.

    Attributes:
        bundle: The payload and the flags in one message.
    """

    def __init__(self, payload: Payload, own: Sequence[bool]) -> None:
        values = torch.tensor(own, dtype=torch.float32, device=payload.device)
        self._counts = DensePayload(values, goals=SUM)
        parts = payload.parts if isinstance(payload, BundlePayload) else [payload]
        self.bundle = BundlePayload([*parts, self._counts])
        self.bundle.made_with = payload.made_with

    def counts(self) -> list[int]:
        """Return the numbers of ranks, after the run."""
        return [round(count) for count in self._counts.buffer.tolist()]


def used(gradients: Sequence[Tensor]) -> list[bool]:
    """Return True for each gradient that has an element other than zero, NaN included."""
    norms = torch._foreach_norm(list(gradients), 1)  # noqa: SLF001  # no other
    return [norm != 0 for norm in torch.stack(list(norms)).tolist()]
