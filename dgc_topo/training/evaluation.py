"""Evaluation during training: the workers' average model, their own, and scores on the test set."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dgc_topo.records.quality import QualityPoint, RankQuality
from dgc_topo.sizes import count_elements
from dgc_topo.training.averaging.parameters import set_parts
from dgc_topo.training.models import LearningTask, Score, Task, running_statistics
from dgc_topo.training.rank import StepRecord, TrainingRank


class Share(NamedTuple):
    """One rank's share of an epoch's evaluation.

    Attributes:
        score: Score on its part of the test set.
        loss: Mean loss of its steps; 0 on a server.
        density: Fraction of the compressed elements that it sent, mean over its steps.
        distance: L2 distance of its parameters from those of the model that is evaluated.
        own: Score of its own model on the whole test set; None if nobody asks for it.
    """

    score: Score
    loss: float
    density: float
    distance: float = 0.0
    own: Score | None = None


def share_of(
    rank: TrainingRank,
    task: LearningTask,
    model: nn.Module,
    done: Sequence[StepRecord],
    *,
    own_too: bool = False,
) -> Share:
    """Return a rank's share of the evaluation of the average *model*.

    Args:
        rank: The rank.
        task: For its test set.
        model: The average model.
        done: Records of the epoch's steps.
        own_too: True to score the rank's own model as well.
    """
    compressed, _ = count_elements(p.shape for p in rank.parameters.values())
    exchanges = [r for r in done if r.encoded_bytes] or done
    sent = [r.entries / compressed if r.entries else r.density for r in exchanges]
    score = rank.evaluate(task, model)
    own = rank.evaluate(task, rank.model, whole=True) if own_too else None
    distance = _distance(rank.parameters, dict(model.named_parameters()))
    loss = float(np.mean([r.loss for r in done]))
    return Share(score, loss, float(np.mean(sent)), distance, own)


@torch.no_grad()
def _distance(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    squares = [
        float((value.detach() - second[name].detach()).to(torch.float64).square().sum())
        for name, value in first.items()
    ]
    return math.sqrt(sum(squares))


def quality_point(
    epoch: int,
    num_steps: int,
    shares: Sequence[Share],
    contributors: Sequence[int],
    *,
    is_local: bool = False,
) -> QualityPoint:
    """Return the quality after an epoch; an undefined value counts as infinite.

    Args:
        epoch: Number of the epoch, from 0.
        num_steps: Number of steps in an epoch.
        shares: By rank; they are added in this order, so that sums have the same bits everywhere.
        contributors: The ranks that train.
        is_local: True if each rank has parameters of its own.
    """
    total, loss, density = Score(shares[0].score.metric, 0.0, 0), 0.0, 0.0
    training = [shares[rank] for rank in contributors]
    for own in training:
        total += own.score
        loss += own.loss
        density += own.density
    return QualityPoint(
        epoch=epoch + 1,
        step=(epoch + 1) * num_steps,
        value=math.inf if math.isnan(total.value) else total.value,
        train_loss=loss / len(contributors),
        density=density / len(contributors),
        consensus_distance=root_mean_square(own.distance for own in training) if is_local else None,
        ranks=_quality_of_ranks([own.own for own in training if own.own is not None]),
    )


def root_mean_square(values: Iterable[float]) -> float:
    """Return the root of the mean square of some numbers, at least one."""
    return float(np.sqrt(np.mean(np.square(list(values)))))


def _quality_of_ranks(scores: Sequence[Score]) -> RankQuality | None:
    if not scores:
        return None
    values = [math.inf if math.isnan(score.value) else score.value for score in scores]
    return RankQuality(lowest=min(values), mean=float(np.mean(values)), highest=max(values))


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
