"""Tasks that learn: model, data and loss of section ``[train]``, by name or from files."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from dgc_topo.training.data import Dataset, SampleDataset, Shard, load_dataset
from dgc_topo.training.models import (
    LearningTask,
    Option,
    OwnData,
    OwnFunction,
    OwnModel,
    make_task,
    take_image_size,
)
from dgc_topo.training.own_code import is_own, load_own
from dgc_topo.training.settings import TrainSection


def shard_of(train: TrainSection, seed: int, place: int, num_workers: int) -> Shard:
    """Return the part of the data of the worker at *place* among those that train.

    Raises:
        ValueError: if there are not as many shares of the batch as workers.
    """
    sizes = train.batch_sizes(num_workers)
    unequal = sizes if train.batch_shares else ()
    return Shard(sizes[place], place, num_workers, seed, train.label_skew, unequal)


def learning_task(train: TrainSection, shard: Shard, device: torch.device) -> LearningTask:
    """Return the task of one worker that learns.

    Args:
        train: Names model, data and loss.
        shard: The worker's place.
        device: Device of batches and model.

    Raises:
        ValueError: naming what is wrong with them.
    """
    options: dict[str, Option] = dict(train.options)
    dataset = _dataset_of(train, options)
    model = train.model if not is_own(train.model) else OwnModel(*_own(train, "model"))
    criterion = None if train.loss is None else OwnFunction(*_own(train, "loss"))
    return make_task(dataset, model, shard, options=options, device=device, criterion=criterion)


def preload(section: Any) -> None:
    """Load the data set of a ``[train]`` section (JSON values) for the forks of this process.

    The user's own is left to the forks, because its code may start threads.
    """
    train = TrainSection.model_validate(section)
    if not train.emulates and not is_own(train.dataset):
        _load(train.dataset, train.data_folder, take_image_size(dict(train.options)))


def _dataset_of(train: TrainSection, options: dict[str, Option]) -> Dataset | SampleDataset:
    """Return the data set; take its own options out of *options*."""
    if not is_own(train.dataset):
        return _load(train.dataset, train.data_folder, take_image_size(options))
    label, function = _own(train, "dataset")
    data = OwnData(label, function)
    model_too = {}
    if is_own(train.model):  # both may have an option of that name
        names = OwnModel(*_own(train, "model")).names()
        model_too = {key: value for key, value in options.items() if key in names}
    own = data.take_options(options)
    options |= model_too
    return _load_own(data, tuple(own.items()), train.data_folder)


def _own(train: TrainSection, key: str) -> tuple[str, Callable[..., Any]]:
    name = getattr(train, key)
    return f"train.{key}: {name}", load_own(name, train.folder, f"train.{key}", train.code)


@lru_cache(maxsize=1)
def _load(name: str, root: Path | None, image_size: int | None) -> Dataset:
    """Load a data set once for all workers and jobs of a process; it is never written to."""
    return load_dataset(name, root=root, image_size=image_size)


@lru_cache(maxsize=1)
def _load_own(
    data: OwnData, options: tuple[tuple[str, Option], ...], root: Path | None
) -> SampleDataset:
    return data.load(dict(options), root)


def forget_data() -> None:
    """Give back the memory of data sets, in a process that trains nothing itself."""
    _load.cache_clear()
    _load_own.cache_clear()
