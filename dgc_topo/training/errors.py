"""Errors of a training."""

from __future__ import annotations

import math

from dgc_topo.training.job import Job


class TrainingError(RuntimeError):
    """Training went wrong in a way that no result may hide."""


class DivergedError(TrainingError):
    """The loss is no longer finite.

    Attributes:
        step: The training step, from 0.
    """

    def __init__(self, text: str, step: int) -> None:
        super().__init__(text)
        self.step = step


def check_loss(job: Job, loss: float, rank: int, step: int) -> None:
    """Refuse a loss that is NaN or infinite.

    Raises:
        DivergedError: naming rank and step.
    """
    if not math.isfinite(loss):
        raise DivergedError(
            f"{job.label}: loss is {loss} on rank {rank} at step {step}: training diverged; try a "
            "smaller learning_rate",
            step,
        )
