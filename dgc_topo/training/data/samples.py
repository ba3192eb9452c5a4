"""Data sets of the user's own: samples of any shape, from tensors or torch data sets."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset, TensorDataset, default_collate

from dgc_topo.training.data.dataset_files import DataError

_PARTS = 2  # inputs and targets; train and test
_SPREAD = 30  # samples of a trial, where each has to be made
_CHUNK = 4096  # samples looked at together
_IMAGE_DIMS = 3  # channels, height, width
_EXPECTED = (
    "expected a pair of tensors, inputs and targets, or a torch data set with a length whose "
    "samples are such pairs"
)


class Samples(NamedTuple):
    """Some samples, one after the other.

    Attributes:
        inputs: A tensor whose first dimension counts samples, or what `default_collate` makes of
            other inputs.
        targets: Likewise; a tensor, or else it is refused before a training begins.
    """

    inputs: Any
    targets: Any


class SampleSplit(Protocol):
    """The training or the test part of a set of samples."""

    def __len__(self) -> int: ...

    def gather(self, indices: Tensor) -> Samples:
        """Return the samples at *indices*, int64 (num_samples,), in this order."""
        ...

    @property
    def num_classes(self) -> int | None:
        """Number of classes among the targets; None if they are no classes, or are not known."""
        ...

    def telling(self) -> Tensor:
        """Return the indices of a few samples for a trial: the first, and the oddest if known."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class TensorSamples:
    """Samples held in memory.

    Attributes:
        inputs: Shape (num_samples, ...).
        targets: Shape (num_samples, ...).
    """

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def gather(self, indices: Tensor) -> Samples:
        """See `SampleSplit.gather`."""
        return Samples(self.inputs[indices], self.targets[indices])

    @property
    def num_classes(self) -> int | None:
        """See `SampleSplit.num_classes`."""
        if self.targets.dtype != torch.int64:
            return None
        return int(self.targets.max()) + 1

    def telling(self) -> Tensor:
        """See `SampleSplit.telling`: the first that is not finite is among them."""
        odd = [each for part in (self.inputs, self.targets) for each in _first_not_finite(part)]
        return _with_first(odd, len(self))


@dataclass(frozen=True, slots=True, eq=False)
class TorchSamples:
    """Samples that a torch data set makes when they are needed.

    Attributes:
        dataset: It has a length; ``dataset[index]`` is a pair.
        size: Number of samples.
    """

    dataset: Any
    size: int

    def __len__(self) -> int:
        return self.size

    def gather(self, indices: Tensor) -> Samples:
        """See `SampleSplit.gather`.

        Raises:
            DataError: if a sample is no pair.
        """
        samples = [self.dataset[index] for index in indices.tolist()]
        odd = next((s for s in samples if not isinstance(s, tuple | list) or len(s) != _PARTS), 0)
        if odd != 0:
            raise DataError(f"a sample is {type(odd).__name__}, expected a pair: input and target")
        inputs, targets = default_collate([tuple(sample) for sample in samples])
        return Samples(inputs, targets)

    @property
    def num_classes(self) -> int | None:
        """See `SampleSplit.num_classes`: those that the data set names, as torchvision's do."""
        classes = getattr(self.dataset, "classes", None)
        return len(classes) if isinstance(classes, Sized) else None

    def telling(self) -> Tensor:
        """See `SampleSplit.telling`: some all over the set, and the extremes of listed targets."""
        spread = torch.linspace(0, self.size - 1, _SPREAD).long().tolist()
        listed = self._listed_targets()
        extremes = [] if listed is None else [int(listed.argmin()), int(listed.argmax())]
        return _with_first([*extremes, *spread], self.size)

    def _listed_targets(self) -> Tensor | None:
        """Return the targets that the data set lists, as torchvision's do; None if it does not."""
        for name in ("targets", "labels"):
            try:
                found = torch.as_tensor(getattr(self.dataset, name))
            except (AttributeError, TypeError, ValueError, RuntimeError):
                continue
            if found.shape == (self.size,):
                return found
        return None


@dataclass(frozen=True, slots=True, eq=False)
class SampleDataset:
    """A set of samples to learn from, and of others to test on.

    Attributes:
        name: ``file.py:NAME`` of the function that made it.
        train: Samples to learn from.
        test: Samples to measure quality on.
    """

    name: str
    train: SampleSplit
    test: SampleSplit

    @classmethod
    def of(cls, name: str, made: object) -> SampleDataset:
        """Return the data set that a function of the user's own returned.

        Args:
            name: Name of the function, for errors.
            made: Train and test set, each a pair of tensors (or arrays), or a torch data set.

        Raises:
            DataError: if it is anything else, or a part is empty or has odd lengths.
        """
        if not isinstance(made, tuple | list) or len(made) != _PARTS:
            raise DataError(
                f"{name}: returned {_kind(made)}, expected two things: the train and the test set"
            )
        train, test = (
            _split(f"{name}: {part} set", each)
            for part, each in zip(("train", "test"), made, strict=True)
        )
        return cls(name, train, test)

    @property
    def num_classes(self) -> int:
        """Number of classes, for models that come with the package.

        Raises:
            DataError: if it is not known.
        """
        counts = [split.num_classes for split in (self.train, self.test)]
        known = [count for count in counts if count is not None]
        if not known:
            raise DataError(
                f"{self.name}: the number of classes is not known, expected targets as an int64 "
                "tensor, a data set with 'classes', or a model of your own"
            )
        return max(known)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every input, for models that come with the package.

        Raises:
            DataError: if inputs are no images.
        """
        inputs = self.train.gather(torch.zeros(1, dtype=torch.int64)).inputs
        if not isinstance(inputs, Tensor) or inputs.dim() != 1 + _IMAGE_DIMS:
            raise DataError(
                f"{self.name}: inputs are {describe(inputs)}, expected images (channels, height, "
                "width), or a model of your own"
            )
        channels, height, width = inputs.shape[1:]
        return channels, height, width


def _with_first(indices: Sequence[int], size: int) -> Tensor:
    """Return the first two indices, as batch normalisation needs two samples, and others."""
    return torch.tensor(sorted({*range(min(2, size)), *indices}))


def _first_not_finite(values: Tensor) -> list[int]:
    """Return the index of the first sample that holds NaN or infinity; none if there is none."""
    if not values.is_floating_point():
        return []
    begin = 0
    for part in torch.split(values, _CHUNK):
        odd = (~torch.isfinite(part)).flatten(1).any(1) if part.dim() > 1 else ~torch.isfinite(part)
        if odd.any():
            return [begin + int(odd.nonzero()[0])]
        begin += len(part)
    return []


def _split(what: str, made: object) -> SampleSplit:
    if isinstance(made, TensorDataset):
        made = made.tensors
    if isinstance(made, tuple | list) and len(made) == _PARTS:
        inputs, targets = (
            torch.as_tensor(each) if isinstance(each, np.ndarray) else each for each in made
        )
        if isinstance(inputs, Tensor) and isinstance(targets, Tensor):
            return _tensors(what, inputs, targets)
    if isinstance(made, IterableDataset) or not isinstance(made, TorchDataset):
        raise DataError(f"{what}: {_kind(made)}, {_EXPECTED}")
    try:
        size = len(made)  # type: ignore[arg-type]  # torch's own base class has none
    except TypeError:
        raise DataError(f"{what}: {_kind(made)} without a length, {_EXPECTED}") from None
    if not size:
        raise DataError(f"{what}: empty, expected at least one sample")
    return TorchSamples(made, size)


def _tensors(what: str, inputs: Tensor, targets: Tensor) -> TensorSamples:
    if not inputs.dim() or not targets.dim() or len(inputs) != len(targets):
        raise DataError(
            f"{what}: inputs {tuple(inputs.shape)} and targets {tuple(targets.shape)}, expected as "
            "many of both: the first dimension counts samples"
        )
    if not len(inputs):
        raise DataError(f"{what}: empty, expected at least one sample")
    return TensorSamples(inputs, targets)


def describe(value: object) -> str:
    """Return the type and shape of a tensor, or the type of anything else, for errors."""
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return f"{dtype} of shape {tuple(value.shape)}"
    return _kind(value)


def _kind(value: object) -> str:
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return type(value).__name__
