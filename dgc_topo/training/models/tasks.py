"""The two tasks that learn: classification of images, and prediction of the next character."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dgc_topo.training.data import (
    ImageDataset,
    SampleBatches,
    SampleDataset,
    Shard,
    StreamBatches,
    TextDataset,
    load_dataset,
    sample_batches,
)
from dgc_topo.training.data.batches import CROP_FLIP_RANDOMS, crop_flip
from dgc_topo.training.models.architectures import detach
from dgc_topo.training.models.build import (
    TEXT_MODELS,
    AnyDataset,
    Option,
    build_model,
    check_model,
    check_options,
)
from dgc_topo.training.models.own import OwnModel
from dgc_topo.training.models.sample_tasks import ClassTask, Loss, LossTask
from dgc_topo.training.models.task import (
    Batch,
    LearningTask,
    Score,
    check_part,
    evaluating,
    to_device,
)

DEFAULT_BPTT = 64
_IMAGE_OPTIONS: Mapping[str, Option] = MappingProxyType({"augment": False})
_TEXT_OPTIONS: Mapping[str, Option] = MappingProxyType({"bptt": DEFAULT_BPTT})
_EVALUATION_IMAGES = 250  # per batch
_EVALUATION_STREAMS = 64
_EVALUATION_TOKENS = 128  # per stream and batch


@dataclass
class ImageTask(LearningTask):
    """Classification of images; quality is the accuracy on the test images.

    Attributes:
        dataset: Images and labels.
        plan: Samples of each step.
        augment: True to crop and mirror images at random.
    """

    dataset: ImageDataset
    plan: SampleBatches
    augment: bool

    metric = "accuracy"
    higher_is_better = True

    @property
    def batch_samples(self) -> int:
        """Number of images that this worker learns from in one step."""
        return self.shard.batch_size

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """See `Task.batches`."""
        split = self.dataset.train
        randoms = self.plan.randoms(epoch, CROP_FLIP_RANDOMS) if self.augment else None
        for step, indices in enumerate(self.plan.indices(epoch)[start:], start):
            images = split.gather(indices)
            if randoms is not None:
                images = crop_flip(images, randoms[step])
            yield self._batch(images, split.labels[indices])

    def _batch(self, images: Tensor, labels: Tensor) -> Batch:
        inputs = self.dataset.normalise(images.to(self.device))
        return Batch(inputs, labels.to(self.device), first=True)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of *batch*, nats, a scalar to call ``backward`` on."""
        return functional.cross_entropy(model(batch.inputs), batch.targets)

    def evaluate(
        self,
        model: nn.Module,
        max_batches: int | None = None,
        *,
        part: int = 0,
        num_parts: int = 1,
    ) -> Score:
        """Return the accuracy of *model* on the test images; see `LearningTask.evaluate`.

        A batch is 250 images; parts take turns batch by batch.
        """
        check_part(part, num_parts, max_batches)
        split = self.dataset.test
        batches = torch.split(torch.arange(len(split)), _EVALUATION_IMAGES)[:max_batches][
            part::num_parts
        ]
        score = Score("accuracy", 0.0, 0)
        with evaluating(model):
            for indices in batches:
                batch = self._batch(split.gather(indices), split.labels[indices])
                right = model(batch.inputs).argmax(1) == batch.targets
                score += Score("accuracy", float(right.sum()), len(indices))
        return score


@dataclass
class TextTask(LearningTask):
    """Prediction of the next character; quality is the perplexity on the validation text.

    The hidden state is carried from each batch of an epoch to the next, so the batches of an
    epoch must go through `loss` in their order, each once.  A model of the user's own carries none
    if its forward pass returns logits alone; it is given a state only if it takes one, as its
    second argument.

    Attributes:
        dataset: Text as tokens.
        plan: Windows of each step.
    """

    dataset: TextDataset
    plan: StreamBatches

    metric = "perplexity"
    higher_is_better = False

    def __post_init__(self) -> None:
        self._state: Any = None
        self._needs_state = True

    def build_model(self) -> nn.Module:
        """See `LearningTask.build_model`."""
        model = super().build_model()
        self._needs_state = _needs_two(model.forward)
        return model

    def _predict(self, model: nn.Module, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Return logits (batch, time, num_tokens), and the state to go on from."""
        # A second argument with a default may be anything, until the model has returned a state.
        given = (tokens, state) if self._needs_state or state is not None else (tokens,)
        found = model(*given)
        return found if isinstance(found, tuple) else (found, None)

    @property
    def batch_samples(self) -> int:
        """Number of tokens that this worker learns from in one step."""
        return self.shard.batch_size * self.plan.bptt

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """See `Task.batches`."""
        for window in islice(self.plan.windows(epoch), start, None):
            inputs = window.inputs.to(self.device, torch.int64)
            yield Batch(inputs, window.targets.to(self.device), window.first)

    def state_dict(self) -> dict[str, Any]:
        """Return the hidden state, if one is carried."""
        return {} if self._state is None else {"hidden": self._state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from such a state; without one the next window begins with zeros."""
        self._state = to_device(state.get("hidden"), self.device)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of *batch*, nats, a scalar to call ``backward`` on."""
        state = None if batch.first else self._state
        logits, state = self._predict(model, batch.inputs, state)
        self._state = detach(state)
        return functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())

    def evaluate(
        self,
        model: nn.Module,
        max_batches: int | None = None,
        *,
        part: int = 0,
        num_parts: int = 1,
    ) -> Score:
        """Return the perplexity of *model* on the validation text; see `LearningTask.evaluate`.

        The text is read as 64 streams side by side, whose state is carried along; a batch is
        128 tokens of each, and a part is some of the streams.
        """
        check_part(part, num_parts, max_batches)
        tokens = self.dataset.validation.to(torch.int64)
        streams = min(_EVALUATION_STREAMS, len(tokens) - 1)
        length = (len(tokens) - 1) // streams
        inputs = tokens[: streams * length].view(streams, length)[part::num_parts]
        targets = tokens[1 : streams * length + 1].view(streams, length)[part::num_parts]
        score, state = Score("perplexity", 0.0, 0), None
        if not len(inputs):
            return score
        windows = zip(
            torch.split(inputs.to(self.device), _EVALUATION_TOKENS, dim=1)[:max_batches],
            torch.split(targets.to(self.device), _EVALUATION_TOKENS, dim=1)[:max_batches],
            strict=True,
        )
        with evaluating(model):
            for window, following in windows:
                logits, state = self._predict(model, window, state)
                nats = functional.cross_entropy(
                    logits.flatten(0, 1), following.flatten(), reduction="sum"
                )
                score += Score("perplexity", float(nats), following.numel())
        return score


def _needs_two(forward: Callable[..., Any]) -> bool:
    """Return True if a forward pass cannot do without a second argument."""
    given = list(inspect.signature(forward).parameters.values())[1:2]
    return any(
        each.default is each.empty
        and each.kind in {each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD}
        for each in given
    )


def make_task(
    dataset: str | AnyDataset,
    model_name: str | OwnModel,
    shard: Shard,
    *,
    options: Mapping[str, Option] = MappingProxyType({}),
    root: Path | str | None = None,
    device: torch.device | str = "cpu",
    criterion: Loss | None = None,
) -> LearningTask:
    """Return the task of one worker.

    Args:
        dataset: One of `dataset_names`, or a data set already loaded.
        model_name: One of `model_names` that fits the data, or a model of the user's own.
        shard: The worker's place and batch size; its seed decides initial weights, order and
            augmentation.
        options: Options of the model (`model_options`), and of the task: ``augment`` for images
            (random crops and mirror images; false by default), ``image_size`` for the data set
            ``image-folder`` (pixels), ``bptt`` for text (tokens per step and stream; 64 by
            default).
        root: Folder of the data, see `load_dataset`.
        device: Device of batches and model.
        criterion: Mean loss of outputs and targets, for data of the user's own; cross-entropy by
            default.

    Raises:
        ValueError: if a name or option is unknown, a number is out of range, or the data is
            missing, damaged or too small for one step.
    """
    options = dict(options)
    if isinstance(dataset, str):
        dataset = load_dataset(dataset, root=root, image_size=take_image_size(options))
    place = torch.device(device)
    own, model_options = _split_options(task_options(dataset), options)
    if isinstance(model_name, str):
        check_model(model_name, dataset, model_options)
        builder = _builder_of(model_name, dataset, model_options)
    else:
        builder = model_name.builder(model_options)
    if not isinstance(dataset, TextDataset):
        samples = sample_batches(dataset, shard)
        if isinstance(dataset, ImageDataset):
            return ImageTask(shard, place, dataset, builder, samples, bool(own["augment"]))
        if criterion is None:
            return ClassTask(shard, place, dataset, builder, samples)
        return LossTask(shard, place, dataset, builder, samples, criterion)
    if shard.label_skew is not None:
        raise ValueError(f"label_skew: {dataset.name} is text without classes, expected none")
    streams = StreamBatches(dataset.train, int(own["bptt"]), shard)
    return TextTask(shard, place, dataset, builder, streams)


def _builder_of(
    name: str, dataset: AnyDataset, options: Mapping[str, Option]
) -> Callable[[int], nn.Module]:
    return lambda seed: build_model(name, dataset, seed=seed, **options)


def take_image_size(options: dict[str, Option]) -> int | None:
    """Take the data set's own option out of *options* and return it.

    Raises:
        ValueError: if it is no number.
    """
    image_size = options.pop("image_size", None)
    if image_size is not None and type(image_size) is not int:
        raise ValueError(f"task: option image_size = {image_size!r}, expected int")
    return image_size


def task_options(dataset: AnyDataset) -> dict[str, Option]:
    """Return the options that a task on *dataset* has besides its model's, with their defaults."""
    if isinstance(dataset, SampleDataset):
        return {}
    return dict(_IMAGE_OPTIONS if isinstance(dataset, ImageDataset) else _TEXT_OPTIONS)


def check_task_options(model_name: str, options: Mapping[str, Option]) -> None:
    """Check the options of a task as `make_task` does, as far as is possible without data.

    Raises:
        ValueError: if one is unknown, or out of range.
    """
    rest = dict(options)
    take_image_size(rest)
    defaults = _TEXT_OPTIONS if model_name in TEXT_MODELS else _IMAGE_OPTIONS
    check_options(model_name, _split_options(dict(defaults), rest)[1])


def _split_options(
    own: dict[str, Option], options: Mapping[str, Option]
) -> tuple[dict[str, Option], dict[str, Option]]:
    for key, default in own.items():
        value = options.get(key, default)
        if type(value) is not type(default):
            expected = type(default).__name__
            raise ValueError(f"task: option {key} = {value!r}, expected {expected}")
        own[key] = value
    return own, {key: value for key, value in options.items() if key not in own}
