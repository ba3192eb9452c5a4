"""Tasks on data of the user's own: classes by cross-entropy, or anything by a loss of their own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dgc_topo.python_files import CodeError
from dgc_topo.training.data import SampleBatches, SampleDataset, Samples
from dgc_topo.training.models.task import (
    Batch,
    LearningTask,
    Score,
    check_part,
    evaluating,
    to_device,
)

IGNORED = -100  #: target that torch's cross-entropy leaves out
_EVALUATION_SAMPLES = 250  # per batch

Loss = Callable[[Any, Tensor], Tensor]


@dataclass
class SampleTask(LearningTask):
    """Learning from independent samples of the user's own.

    Attributes:
        dataset: Inputs and targets.
        plan: Samples of each step.
    """

    dataset: SampleDataset
    plan: SampleBatches

    @property
    def batch_samples(self) -> int:
        """Number of samples that this worker learns from in one step."""
        return self.shard.batch_size

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """See `Task.batches`."""
        for indices in self.plan.indices(epoch)[start:]:
            yield self.batch(self.dataset.train.gather(indices))

    def batch(self, samples: Samples) -> Batch:
        """Return samples on the task's device."""
        inputs, targets = to_device(tuple(samples), self.device)
        return Batch(inputs, targets, first=True)

    @abstractmethod
    def score(self, outputs: Any, targets: Tensor) -> Score:
        """Return the score of a model's *outputs* for some samples of the test set."""

    def evaluate(
        self,
        model: nn.Module,
        max_batches: int | None = None,
        *,
        part: int = 0,
        num_parts: int = 1,
    ) -> Score:
        """Return the score of *model* on the test set; see `LearningTask.evaluate`.

        A batch is 250 samples; parts take turns batch by batch.
        """
        check_part(part, num_parts, max_batches)
        split = self.dataset.test
        batches = torch.split(torch.arange(len(split)), _EVALUATION_SAMPLES)[:max_batches]
        total = Score(self.metric, 0.0, 0)
        with evaluating(model):
            for indices in batches[part::num_parts]:
                batch = self.batch(split.gather(indices))
                total += self.score(model(batch.inputs), batch.targets)
        return total


@dataclass
class ClassTask(SampleTask):
    """Classification: cross-entropy of (batch, classes, ...) with int64 targets (batch, ...)."""

    metric = "accuracy"
    higher_is_better = True

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of *batch*, nats, a scalar to call ``backward`` on."""
        outputs = model(batch.inputs)
        try:
            return functional.cross_entropy(outputs, batch.targets)
        except IndexError as error:  # on a CPU; a GPU ends the process
            raise CodeError(
                f"{self.dataset.name}: a target is no class ({error}), expected 0 to "
                f"{outputs.shape[1] - 1}, as the model has {outputs.shape[1]} outputs"
            ) from error

    def score(self, outputs: Any, targets: Tensor) -> Score:
        """Return the number of right answers; targets that the loss leaves out do not count."""
        right = outputs.argmax(1) == targets
        return Score("accuracy", float(right.sum()), int((targets != IGNORED).sum()))


@dataclass
class LossTask(SampleTask):
    """Any task with a loss of the user's own; quality is its mean on the test set.

    Attributes:
        criterion: Function of outputs and targets that returns their mean loss.
    """

    criterion: Loss

    metric = "loss"
    higher_is_better = False

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss of *batch*, a scalar to call ``backward`` on."""
        return self.criterion(model(batch.inputs), batch.targets)

    def score(self, outputs: Any, targets: Tensor) -> Score:
        """Return the loss, weighted with the number of samples."""
        count = len(targets)
        return Score("loss", count * float(self.criterion(outputs, targets)), count)
