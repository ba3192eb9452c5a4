"""When what happens in a training: its steps, epochs and learning rates."""

from __future__ import annotations

import math

from dgc_topo.training.models import Task
from dgc_topo.training.settings import TrainSection


class Timetable:
    """The steps of a training, counted from 0 over all epochs.

    Args:
        train: Says how many epochs there are, and may limit their steps.
        task: Knows how many steps go through the data once.

    Attributes:
        num_epochs: Epochs.
        steps_per_epoch: Steps in each.
        num_steps: Steps in all.
    """

    def __init__(self, train: TrainSection, task: Task) -> None:
        self._train = train
        limit, steps = train.max_steps_per_epoch, task.steps_per_epoch
        self.num_epochs = train.epochs
        self.steps_per_epoch = steps if limit is None else min(steps, limit)
        self.num_steps = self.steps_per_epoch * self.num_epochs

    def steps(self, epoch: int) -> range:
        """Return the steps of an *epoch*, counted from 0."""
        return range(epoch * self.steps_per_epoch, (epoch + 1) * self.steps_per_epoch)

    def epochs_before(self, step: int) -> float:
        """Return the epochs done before a step, fractions included."""
        return step / self.steps_per_epoch

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate in a step."""
        rate = self._train.learning_rate
        if self._train.learning_rate_decay == "cosine":
            return rate * 0.5 * (1 + math.cos(math.pi * (step / self.num_steps)))
        return rate
