"""Batches of each worker: all workers draw the same plan from a seed, and each takes its part.

N workers with batches of b see, step by step, exactly the samples that one worker with batches of
N*b would see: worker r has the r-th run of b in each global batch; unequal workers have runs of
their own lengths.  (Samples that are divided by label are an exception, see `label_skew`.)  All
workers have the same number of steps.  Samples that do not fill a global batch are left out; they
differ from epoch to epoch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from dgc_topo.seeds import Purpose, stream_seed

CROP_FLIP_RANDOMS = 3  #: random numbers that `crop_flip` needs per image
_FLIP_BELOW = 0.5


class TextWindow(NamedTuple):
    """Tokens of one training step, and the tokens that follow each of them.

    Attributes:
        inputs: uint8, shape (batch_size, bptt).
        targets: int64, likewise; ``targets[:, t]`` follows ``inputs[:, t]``.
        first: True if the streams begin here, so that no hidden state is carried into it.
    """

    inputs: Tensor
    targets: Tensor
    first: bool


@dataclass(frozen=True, slots=True)
class Shard:
    """One worker's place among those that share a data set.

    Attributes:
        batch_size: Images, or streams of text, of this worker per step.
        rank: Its number, from 0, among the workers that train.
        num_workers: Number of workers that train (a dedicated server does not).
        seed: The same on every worker.
        label_skew: Concentration of the classes that each worker gets, see `label_skew`; None
            divides all samples among all workers, anew in each epoch.
        batch_sizes: Of all workers, if they differ.

    Raises:
        ValueError: if a number is out of range.
    """

    batch_size: int
    rank: int = 0
    num_workers: int = 1
    seed: int = 0
    label_skew: float | None = None
    batch_sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.num_workers:
            raise ValueError(f"shard: rank {self.rank}, expected 0 to {self.num_workers - 1}")
        if self.batch_size < 1:
            raise ValueError(f"shard: batch_size {self.batch_size}, expected at least 1")
        if self.seed < 0:
            raise ValueError(f"shard: seed {self.seed}, expected at least 0")
        if self.label_skew is not None and not 0 < self.label_skew < math.inf:
            raise ValueError(f"shard: label_skew {self.label_skew}, expected a number above 0")
        if self.batch_sizes and (
            len(self.batch_sizes) != self.num_workers
            or self.batch_sizes[self.rank] != self.batch_size
        ):
            raise ValueError(
                f"shard: batch_sizes {self.batch_sizes}, expected {self.num_workers} with "
                f"{self.batch_size} of rank {self.rank}"
            )

    @property
    def global_batch_size(self) -> int:
        """Number of samples of all workers together in one step."""
        return sum(self.batch_sizes) or self.batch_size * self.num_workers

    @property
    def begin(self) -> int:
        """Number of samples of the workers before this one in one step."""
        return sum(self.batch_sizes[: self.rank]) or self.batch_size * self.rank

    @property
    def text(self) -> str:
        """All workers' batches, for errors."""
        if self.batch_sizes:
            return f"batches of {', '.join(map(str, self.batch_sizes))}"
        return f"{self.num_workers} workers x batch {self.batch_size}"

    def generator(self, epoch: int, purpose: Purpose) -> torch.Generator:
        """Return the random numbers of an *epoch*, the same on every worker."""
        return torch.Generator().manual_seed(stream_seed(self.seed, epoch, purpose))


@dataclass(frozen=True, slots=True, eq=False)
class SampleBatches:
    """Shuffled batches of independent samples.

    Attributes:
        num_samples: Size of the data set.
        shard: This worker's part.
        own: Indices of the samples that are only this worker's, where they are divided once for
            all: at least ``num_samples // num_workers``.  None divides them anew in each epoch.

    Raises:
        ValueError: if the samples do not fill one global batch.
    """

    num_samples: int
    shard: Shard
    own: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.steps_per_epoch:
            workers = self.shard.text
            raise ValueError(f"batches: {self.num_samples} samples, {workers} need more")

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps in an epoch, the same on every worker."""
        return self.num_samples // self.shard.global_batch_size

    def indices(self, epoch: int) -> Tensor:
        """Return the indices of our samples, int64, shape (steps_per_epoch, batch_size)."""
        generator = self.shard.generator(epoch, Purpose.PERMUTATION)
        order = torch.randperm(self.num_samples, generator=generator)
        if self.own is None:
            return self._ours(order)
        is_own = torch.zeros(self.num_samples, dtype=torch.bool)
        is_own[self.own] = True
        shape = self.steps_per_epoch, self.shard.batch_size
        return order[is_own[order]][: shape[0] * shape[1]].view(shape)

    def randoms(self, epoch: int, per_sample: int) -> Tensor:
        """Return random numbers for augmenting our samples, the same however many workers share.

        Returns:
            float32 in [0, 1), shape (steps_per_epoch, batch_size, per_sample).
        """
        generator = self.shard.generator(epoch, Purpose.AUGMENTATION)
        return self._ours(torch.rand(self.num_samples, per_sample, generator=generator))

    def _ours(self, rows: Tensor) -> Tensor:
        """Return our part of *rows*, which are in the order of the epoch."""
        shard = self.shard
        used = rows[: self.steps_per_epoch * shard.global_batch_size]
        shape = (self.steps_per_epoch, shard.global_batch_size, *rows.shape[1:])
        return used.view(shape)[:, shard.begin : shard.begin + shard.batch_size]


@dataclass(frozen=True, slots=True, eq=False)
class StreamBatches:
    """Windows that walk through contiguous text, one stream per row of every worker's batch.

    Row i of a worker is stream ``begin + i`` of as many equal streams as a global batch has, which
    the text is cut into, so hidden state may be carried from window to window.
    Each epoch begins at another offset, within what does not fill a step.

    Attributes:
        tokens: uint8, shape (num_tokens,).
        bptt: Tokens per window (truncated back-propagation through time).
        shard: This worker's rows; its batch size counts rows.

    Raises:
        ValueError: if the text is too short for one step.
    """

    tokens: Tensor
    bptt: int
    shard: Shard

    def __post_init__(self) -> None:
        if self.bptt < 1:
            raise ValueError(f"batches: bptt {self.bptt}, expected at least 1")
        if not self.steps_per_epoch:
            rows = self.shard.text
            needs = f"{rows} x bptt {self.bptt} need more"
            raise ValueError(f"batches: {len(self.tokens)} tokens, {needs}")

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps in an epoch, the same on every worker."""
        return (len(self.tokens) - 1) // (self.shard.global_batch_size * self.bptt)

    def windows(self, epoch: int) -> Iterator[TextWindow]:
        """Yield our windows of an *epoch*, in reading order."""
        shard, bptt = self.shard, self.bptt
        length = self.steps_per_epoch * bptt
        slack = len(self.tokens) - 1 - length * shard.global_batch_size
        generator = shard.generator(epoch, Purpose.OFFSET)
        offset = int(torch.randint(slack + 1, (), generator=generator))
        start = offset + shard.begin * length
        ours = self.tokens[start : start + shard.batch_size * length + 1]
        inputs = ours[:-1].view(shard.batch_size, length)
        targets = ours[1:].view(shard.batch_size, length)
        for at in range(0, length, bptt):
            here = slice(at, at + bptt)
            yield TextWindow(inputs[:, here], targets[:, here].to(torch.int64), first=at == 0)


def crop_flip(images: Tensor, randoms: Tensor, padding: int = 4) -> Tensor:
    """Return *images* shifted by up to *padding* pixels each way, half of them mirrored.

    The usual augmentation of CIFAR (He et al., "Deep Residual Learning", 2016, section 4.2);
    what is shifted in is black.

    Args:
        images: uint8, shape (num_images, channels, height, width).
        randoms: Numbers in [0, 1), shape (num_images, 3).
        padding: Largest shift, pixels.

    Returns:
        uint8 of the same shape.
    """
    height, width = images.shape[2:]
    padded = functional.pad(images, (padding,) * 4).permute(0, 2, 3, 1)
    top, left = (randoms[:, :2] * (2 * padding + 1)).to(torch.int64).unbind(1)
    columns = torch.arange(width).expand(len(images), width)
    columns = torch.where(randoms[:, 2:] < _FLIP_BELOW, columns.flip(1), columns)
    rows = torch.arange(height) + top[:, None]
    columns = columns + left[:, None]
    image = torch.arange(len(images))[:, None, None]
    return padded[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
