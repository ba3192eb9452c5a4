"""Evaluation during training: the workers' average model, and its score on the test set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dgc_topo.records.measurement import QualityPoint
from dgc_topo.sizes import count_elements
from dgc_topo.training.averaging.parameters import set_parts
from dgc_topo.training.models import Score, Task, running_statistics
from dgc_topo.training.rank import StepRecord


class Share(NamedTuple):
    """One rank's share of an epoch's evaluation.

    Attributes:
        score: Score on its part of the test set.
        loss: Mean loss of its steps; 0 on a server.
        density: Fraction of the compressed elements that it sent, mean over its steps.
    """

    score: Score
    loss: float
    density: float


def share_of(score: Score, done: Sequence[StepRecord], parameters: Mapping[str, Tensor]) -> Share:
    """Return a rank's share from the records of an epoch's steps."""
    compressed, _ = count_elements(p.shape for p in parameters.values())
    exchanges = [r for r in done if r.encoded_bytes] or done
    sent = [r.entries / compressed if r.entries else r.density for r in exchanges]
    return Share(score, float(np.mean([r.loss for r in done])), float(np.mean(sent)))


def quality_point(
    epoch: int, num_steps: int, shares: Sequence[Share], contributors: Sequence[int]
) -> QualityPoint:
    """Return the quality after an epoch; an undefined value counts as infinite.

    Args:
        epoch: Number of the epoch, from 0.
        num_steps: Number of steps in an epoch.
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
        value=math.inf if math.isnan(total.value) else total.value,
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
        model: Model that all workers have alike, but for its statistics.
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
    set_parts(targets, total / len(flats))


@torch.no_grad()
def set_parameters(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Copy *values* to the parameters of a model, by name."""
    for name, parameter in model.named_parameters():
        parameter.copy_(values[name])
