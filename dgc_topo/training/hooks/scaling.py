"""The factor of the loss, which gradients carry and residuals must not."""

from __future__ import annotations

from typing import Protocol


class Scaler(Protocol):
    """Loss scaler, such as `torch.amp.GradScaler`."""

    def get_scale(self) -> float:
        """Return the factor of the loss."""


def scale_of(scaler: Scaler | None) -> float:
    """Return the factor of the loss; 1 without a scaler."""
    return 1.0 if scaler is None else float(scaler.get_scale())
