"""What a training has learnt: the workers' average model, and its score on the test set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dgc_topo.records.measurement import QualityPoint
from dgc_topo.sizes import count_elements
from dgc_topo.training.models import Score, Task, running_statistics
from dgc_topo.training.steps import StepRecord


class Share(NamedTuple):
    """What one rank knows of an epoch."""

    score: Score  #: of its part of the test set
    loss: float  #: mean over its steps; 0 on a server
    density: float  #: fraction of the compressed elements that it sent, mean over its steps


def share_of(score: Score, done: Sequence[StepRecord], parameters: Mapping[str, Tensor]) -> Share:
    """Return a rank's share from what it noted in the steps of an epoch."""
    compressed, _ = count_elements(p.shape for p in parameters.values())
    sent = [r.entries / compressed if r.entries else r.density for r in done]
    return Share(score, float(np.mean([r.loss for r in done])), float(np.mean(sent)))


def quality_point(
    epoch: int, num_steps: int, shares: Sequence[Share], contributors: Sequence[int]
) -> QualityPoint:
    """Return what an evaluation gave.

    Args:
        epoch: From 0.
        num_steps: In an epoch.
        shares: By rank; they are added in this order, so that sums have the same bits everywhere.
        contributors: The ranks that train.
    """
    total, loss, density = Score(shares[0].score.metric, 0.0, 0), 0.0, 0.0
    for rank in contributors:
        total += shares[rank].score
        loss += shares[rank].loss
        density += shares[rank].density
    return QualityPoint(
        epoch=epoch + 1,
        step=(epoch + 1) * num_steps,
        value=total.value,
        train_loss=loss / len(contributors),
        density=density / len(contributors),
    )


def flat_statistics(model: nn.Module) -> Tensor:
    """Return a model's running statistics end to end; shape (0,) if it has none."""
    statistics = running_statistics(model)
    if not statistics:
        return torch.empty(0, dtype=torch.float32, device="cpu")
    return torch.cat([t.reshape(-1) for t in statistics])


def with_average_statistics(task: Task, model: nn.Module, flats: Sequence[Tensor]) -> nn.Module:
    """Return a copy of *model* whose running statistics are the average of the workers'.

    Args:
        task: Builds the copy.
        model: What all workers have alike, but for its statistics.
        flats: The workers' `flat_statistics`.
    """
    copy = task.build_model()
    copy.load_state_dict(model.state_dict())
    set_average(running_statistics(copy), flats)
    return copy


def set_average(targets: Sequence[Tensor], flats: Sequence[Tensor]) -> None:
    """Set *targets* to the average of the workers' *flats*, summed in the order given."""
    total = torch.zeros_like(flats[0])
    for flat in flats:
        total += flat
    total /= len(flats)
    for target, part in zip(targets, torch.split(total, [t.numel() for t in targets]), strict=True):
        target.copy_(part.view_as(target))
