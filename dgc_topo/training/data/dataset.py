"""Data sets: images with labels, or one long run of tokens, kept as compact integers.

Images stay ``uint8`` and are normalised batch by batch: Fashion-MNIST is 55 MB that way and
220 MB as ``float32``, in every worker process.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from dgc_topo.training.data.dataset_files import DataError

_IMAGE_DIMS = 4  # images, channels, height, width
_MAX_CHARACTERS = 256  # a token is one byte
_MIN_TOKENS = 2  # one to read, one that follows


class ImageSplit(Protocol):
    """The training or the test part of an image set."""

    @property
    def labels(self) -> Tensor:
        """Class of each image, int64, shape (num_images,)."""
        ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        ...

    def __len__(self) -> int: ...

    def gather(self, indices: Tensor) -> Tensor:
        """Return the images at *indices*, uint8 (len(indices), channels, height, width)."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class TensorImages:
    """Images held in memory.

    Attributes:
        images: uint8, shape (num_images, channels, height, width).
        labels: int64, shape (num_images,).

    Raises:
        DataError: if a shape or type is another, or there is not one label per image.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != _IMAGE_DIMS:
            found = f"{self.images.dtype} of shape {tuple(self.images.shape)}"
            raise DataError(f"images: {found}, expected uint8 (images, channels, height, width)")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            found = f"{self.labels.dtype} of shape {tuple(self.labels.shape)}"
            raise DataError(f"labels: {found}, expected int64, one for {len(self.images)} images")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def __len__(self) -> int:
        return len(self.images)

    def gather(self, indices: Tensor) -> Tensor:
        """Return the images at *indices*, uint8 (len(indices), channels, height, width)."""
        return self.images[indices]


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """An image classification set.

    Attributes:
        name: Its name, as `load_dataset` knows it.
        train: Images to learn from.
        test: Images to measure accuracy on.
        class_names: One name per class; a label is a position in it.
        mean: Mean of each channel over the training images, as a fraction of full scale.
        std: Standard deviation of each channel, likewise.

    Raises:
        DataError: if a label has no class, or the parts differ in image shape.
    """

    name: str
    train: ImageSplit
    test: ImageSplit
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.train.shape != self.test.shape:
            shapes = f"{self.train.shape} to learn from, {self.test.shape} to test on"
            raise DataError(f"{self.name}: images of shape {shapes}, expected the same")
        for part, split in (("train", self.train), ("test", self.test)):
            if not len(split):
                raise DataError(f"{self.name}: no {part} images, expected at least one")
            low, high = int(split.labels.min()), int(split.labels.max())
            if low < 0 or high >= self.num_classes:
                expected = f"expected 0 to {self.num_classes - 1}"
                raise DataError(f"{self.name}: {part} labels from {low} to {high}, {expected}")

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        return self.train.shape

    @cached_property
    def _scale_and_shift(self) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.std))
        return 1 / (255 * std), -mean / std

    def normalise(self, images: Tensor) -> Tensor:
        """Return uint8 *images* as float32 of about zero mean and unit variance per channel.

        Args:
            images: Shape (num_images, channels, height, width), on any device.
        """
        scale, shift = (value.to(images.device) for value in self._scale_and_shift)
        return torch.addcmul(shift, images.to(torch.float32), scale)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The characters of a text set; a token is a position in *characters*."""

    characters: str

    def __post_init__(self) -> None:
        if not 0 < len(set(self.characters)) == len(self.characters) <= _MAX_CHARACTERS:
            raise DataError(
                f"vocabulary: {self.characters!r}, expected 1 to 256 distinct characters"
            )

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> Tensor:
        """Return one uint8 token per character of *text*, shape (len(text),).

        Raises:
            DataError: if a character is not in the vocabulary.
        """
        known = np.array([ord(character) for character in self.characters], dtype=np.uint32)
        order = np.argsort(known)
        codes = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
        nearest = np.minimum(np.searchsorted(known, codes, sorter=order), len(known) - 1)
        tokens = order[nearest]
        strangers = known[tokens] != codes
        if strangers.any():
            position = int(np.argmax(strangers))
            where = f"text: character {text[position]!r} at position {position}"
            raise DataError(f"{where}, expected one of {self.characters!r}")
        return torch.from_numpy(tokens.astype(np.uint8))

    def decode(self, tokens: Tensor) -> str:
        """Return the text of *tokens*, any shape, read in order."""
        return "".join(self.characters[token] for token in tokens.flatten().tolist())


@dataclass(frozen=True, slots=True, eq=False)
class TextDataset:
    """A language-modelling set.

    Attributes:
        name: Its name, as `load_dataset` knows it.
        train: Tokens to learn from, uint8, shape (num_tokens,), in reading order.
        validation: Tokens to measure perplexity on, likewise.
        vocabulary: The characters that the tokens stand for.

    Raises:
        DataError: if tokens are not a row of two or more uint8, or one is outside the vocabulary.
    """

    name: str
    train: Tensor
    validation: Tensor
    vocabulary: Vocabulary

    def __post_init__(self) -> None:
        for part, tokens in (("train", self.train), ("validation", self.validation)):
            if tokens.dtype != torch.uint8 or tokens.dim() != 1 or len(tokens) < _MIN_TOKENS:
                found = f"{tokens.dtype} of shape {tuple(tokens.shape)}"
                expected = f"expected a row of at least {_MIN_TOKENS} uint8"
                raise DataError(f"{self.name}: {part} tokens are {found}, {expected}")
            if int(tokens.max()) >= len(self.vocabulary):
                largest = f"{part} token {int(tokens.max())}"
                raise DataError(f"{self.name}: {largest}, expected below {len(self.vocabulary)}")


Dataset = ImageDataset | TextDataset
