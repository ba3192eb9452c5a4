"""The `Task`: a model with its loss and batches, so that one training loop fits all.

A `LearningTask` also has data, and measures the model's quality::

    task = make_task("austen", "char-lstm", Shard(batch_size=32))
    model = task.build_model()
    for batch in task.batches(epoch=0):
        task.loss(model, batch).backward()
    task.evaluate(model).value
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from dgc_topo.training.data import (
    Dataset,
    SampleBatches,
    SampleDataset,
    Shard,
    StreamBatches,
)

Metric = Literal["accuracy", "perplexity", "loss"]


class Batch(NamedTuple):
    """Samples of one worker for one step, on the task's device.

    Attributes:
        inputs: Images, float32 (batch_size, channels, height, width), or tokens, int64
            (batch_size, bptt), or whatever the user's own data has.
        targets: Classes, int64 (batch_size,), or the tokens that follow, int64 (batch_size, bptt),
            or the user's own.
        first: True if no hidden state is carried into it.
    """

    inputs: Any
    targets: Tensor
    first: bool


@dataclass(frozen=True, slots=True)
class Score:
    """A model's score, as sums that workers add up before the ratio is formed.

    Attributes:
        metric: ``accuracy`` (a fraction), ``perplexity`` or ``loss``.
        total: Right answers, negative log-likelihood in nats, or losses.
        count: Images, tokens or samples.
    """

    metric: Metric
    total: float
    count: int

    @property
    def value(self) -> float:
        """The metric; NaN where nothing was counted."""
        if not self.count:
            return math.nan
        mean = self.total / self.count
        if self.metric != "perplexity":
            return mean
        try:
            return math.exp(mean)
        except OverflowError:  # a model that diverged
            return math.inf

    def __add__(self, other: Score) -> Score:
        return Score(self.metric, self.total + other.total, self.count + other.count)


@dataclass
class Task(ABC):
    """One worker's part of training one model.

    Attributes:
        shard: The worker's place.
        device: Device of its batches and its model.
    """

    shard: Shard
    device: torch.device

    def worked_s(self) -> float:
        """Return the processor time of this thread, for clocks that stretch it."""
        return time.thread_time()

    def aside(self) -> AbstractContextManager[None]:
        """Return a context for work, in the middle of a pass, that is no part of the task."""
        return nullcontext()

    @abstractmethod
    def build_model(self) -> nn.Module:
        """Return the model on the task's device, alike on every worker."""

    @property
    @abstractmethod
    def steps_per_epoch(self) -> int:
        """Number of steps in an epoch, the same on every worker."""

    @property
    @abstractmethod
    def batch_samples(self) -> int:
        """Number of images, or tokens, that this worker learns from in one step."""

    @abstractmethod
    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield this worker's batches of an *epoch*, from number *start* on; both count from 0."""

    def state_dict(self) -> dict[str, Any]:
        """Return what the task carries from one batch to the next: plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from such a state; an empty one carries nothing."""
        del state

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss of *batch*, a scalar to call ``backward`` on."""


@dataclass
class LearningTask(Task):
    """A task that learns a data set, and can be evaluated.

    Attributes:
        dataset: The data set.
        builder: Function of a seed that returns the model, on the CPU.
        plan: Data of each step.
    """

    dataset: Dataset | SampleDataset
    builder: Callable[[int], nn.Module]
    plan: SampleBatches | StreamBatches

    metric: ClassVar[Metric]
    higher_is_better: ClassVar[bool]

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps in an epoch, the same on every worker."""
        return self.plan.steps_per_epoch

    def build_model(self) -> nn.Module:
        """Return the model on the task's device, alike on every worker: the seed decides."""
        return self.builder(self.shard.seed).to(self.device)

    @abstractmethod
    def evaluate(
        self,
        model: nn.Module,
        max_batches: int | None = None,
        *,
        part: int = 0,
        num_parts: int = 1,
    ) -> Score:
        """Return the score of *model* on data that it never learnt from.

        Args:
            model: Is in evaluation mode meanwhile, and as before afterwards.
            max_batches: Stop after so many batches; all by default.
            part: Number of the share of the data to go through, so that workers can split the work;
                the sum of the scores of all parts is the whole score.
            num_parts: Number of shares.

        Raises:
            ValueError: if *part* is not in range, or *max_batches* is below 1.
        """


def to_device(value: Any, device: torch.device) -> Any:
    """Return tensors, in whatever tuples, lists and dictionaries they are, on a device."""
    return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, value)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Keep *model* in evaluation mode and without gradients inside the block."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def check_part(part: int, num_parts: int, max_batches: int | None) -> None:
    """Raise `ValueError` unless *part* is one of *num_parts* and *max_batches* is positive."""
    if not 0 <= part < num_parts:
        raise ValueError(f"evaluate: part {part}, expected 0 to {num_parts - 1}")
    if max_batches is not None and max_batches < 1:
        raise ValueError(f"evaluate: max_batches {max_batches}, expected at least 1")
