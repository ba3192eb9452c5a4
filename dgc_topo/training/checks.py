"""Checks of a training: losses are finite, and ranks agree bit for bit."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from dgc_topo.payload import BundlePayload, DensePayload, Payload, SparsePayload, TernaryPayload
from dgc_topo.training.job import Job


class TrainingError(RuntimeError):
    """A fault that makes a training's result invalid."""


class DivergedError(TrainingError):
    """A loss, or a gradient, that is no longer finite.

    Attributes:
        step: Number of the training step, from 0.
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


def fingerprint(parameters: Mapping[str, Tensor]) -> str:
    """Return a digest of the parameters' bits."""
    digest = hashlib.sha256()
    for parameter in parameters.values():
        digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def same_bits(first: Payload, second: Payload) -> bool:
    """Return True if two sums are equal bit for bit."""
    match first, second:
        case BundlePayload(), BundlePayload():
            return all(map(same_bits, first.parts, second.parts))
        case DensePayload(), DensePayload():
            return torch.equal(_bits(first.buffer), _bits(second.buffer))
        case SparsePayload(), SparsePayload() if torch.equal(first.indices, second.indices):
            return torch.equal(_bits(first.values), _bits(second.values))
        case (SparsePayload() | TernaryPayload(), SparsePayload() | TernaryPayload()):
            # A run that arrived dense has entries of 0, too, so indices need not agree.
            return torch.equal(_bits(first.to_dense()), _bits(second.to_dense()))
    return False


def _bits(values: Tensor) -> Tensor:
    return values.view(torch.int32)  # NaN equals NaN
