"""Data sets divided by label: every worker gets another mixture of classes.

Worker r's shares of the classes are drawn from a Dirichlet distribution with one concentration for
all of them (Hsu, Qi, Brown 2019): 100 is nearly the same mixture everywhere, 0.1 a class or two for
each worker.  All workers get equally many samples, and every sample goes to just one of them.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dgc_topo.seeds import Purpose, stream_seed
from dgc_topo.training.data.batches import SampleBatches, Shard
from dgc_topo.training.data.dataset import ImageDataset
from dgc_topo.training.data.samples import SampleDataset, TensorSamples


def sample_batches(dataset: ImageDataset | SampleDataset, shard: Shard) -> SampleBatches:
    """Return a worker's batches of a data set.

    Args:
        dataset: The data set.
        shard: The worker's place.

    Raises:
        ValueError: if samples have no classes, or do not fill one step.
    """
    size = len(dataset.train)
    if shard.label_skew is None:
        return SampleBatches(size, shard)
    parts = _divided(dataset, shard.num_workers, shard.label_skew, shard.seed)
    return SampleBatches(size, shard, parts[shard.rank])


@lru_cache(maxsize=2)
def _divided(
    dataset: ImageDataset | SampleDataset, num_workers: int, concentration: float, seed: int
) -> tuple[Tensor, ...]:
    """Return the division of a data set, the same for all workers of a process."""
    return divided_by_label(_labels_of(dataset), num_workers, concentration, seed)


def _labels_of(dataset: ImageDataset | SampleDataset) -> Tensor:
    if isinstance(dataset, ImageDataset):
        return dataset.train.labels
    if isinstance(dataset.train, TensorSamples):
        targets = dataset.train.targets
        if targets.dtype == torch.int64 and targets.dim() == 1:
            return targets
    raise ValueError(
        f"label_skew: the targets of {dataset.name} are not known to be classes, expected an int64 "
        "tensor with one for each sample"
    )


def divided_by_label(
    labels: Tensor, num_workers: int, concentration: float, seed: int
) -> tuple[Tensor, ...]:
    """Return the indices of each worker's samples, rising; they differ in number by at most 1.

    Workers take turns.  In its turn a worker draws a class by its shares, among those that still
    have samples, and takes a random one of that class.  The last to be taken go where they are
    left, so that shares are met as far as the number of samples of each class allows it.

    Args:
        labels: Class of each sample, int64, shape (num_samples,), from 0.
        num_workers: Number of workers.
        concentration: Of the Dirichlet distribution, above 0.
        seed: The division depends on nothing else.
    """
    random = np.random.default_rng(stream_seed(seed, num_workers, Purpose.DIVISION))
    classes = np.unique(labels.numpy(), return_inverse=True)[1]
    sizes = np.bincount(classes)
    shares = random.dirichlet(np.full(len(sizes), concentration), num_workers)
    owner_of_turn = np.arange(len(classes)) % num_workers
    drawn = _classes_drawn(shares, sizes, owner_of_turn, random)
    # The n-th turn that draws a class takes the n-th sample of it, in a random order.
    shuffled = random.permutation(len(classes))
    by_class = shuffled[np.argsort(classes[shuffled], kind="stable")]
    owners = np.empty(len(classes), np.int64)
    owners[by_class] = owner_of_turn[np.argsort(drawn, kind="stable")]
    return tuple(
        torch.from_numpy(np.flatnonzero(owners == worker)) for worker in range(num_workers)
    )


def _classes_drawn(
    shares: npt.NDArray[np.float64],
    sizes: npt.NDArray[np.int64],
    owner_of_turn: npt.NDArray[np.int64],
    random: np.random.Generator,
) -> npt.NDArray[np.int64]:
    """Return the class that each turn draws; each is drawn as often as it has samples."""
    left = sizes.tolist()
    drawn = np.empty(len(owner_of_turn), np.int64)
    bounds = _bounds(shares, left)
    for turn, (worker, number) in enumerate(
        zip(owner_of_turn.tolist(), random.random(len(drawn)).tolist(), strict=True)
    ):
        found = int(np.searchsorted(bounds[worker], number, side="right"))
        drawn[turn] = found
        left[found] -= 1
        if not left[found]:
            bounds = _bounds(shares, left)
    return drawn


def _bounds(shares: npt.NDArray[np.float64], left: list[int]) -> npt.NDArray[np.float64]:
    """Return each worker's shares among the classes with samples left, added up to 1.

    A worker who wanted none of those that are left takes them as they come.
    """
    has_left = np.array(left) > 0
    open_shares = np.where(has_left, shares, 0.0)
    hopeless = open_shares.sum(1) <= 0
    open_shares[hopeless] = np.array(left, np.float64)
    bounds = np.cumsum(open_shares, 1)
    if bounds[:, -1].all():
        bounds /= bounds[:, -1:]
    # Rounding must not lead past the last class that has samples.
    last = int(np.flatnonzero(has_left)[-1]) if has_left.any() else 0
    bounds[:, last:] = 1.0
    return bounds
