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


def check_scaler(where: str, scaler: object) -> None:
    """Refuse what is neither None nor a loss scaler.

    Raises:
        ValueError: naming its type.
    """
    if scaler is not None and not callable(getattr(scaler, "get_scale", None)):
        raise ValueError(
            f"{where}: scaler is {type(scaler).__name__}, expected a torch.amp.GradScaler or None"
        )


def scales(scaler: Scaler | None) -> bool:
    """Return True if a scaler is there that is not switched off."""
    return scaler is not None and bool(getattr(scaler, "is_enabled", lambda: True)())
