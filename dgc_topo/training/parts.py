"""What a job asks for, wherever its workers live: task, compressor and random numbers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

from dgc_topo.compression.after_sum import SGDSettings
from dgc_topo.compression.compressor import Compressor
from dgc_topo.compression.dense import Dense
from dgc_topo.compression.dgc import DGC
from dgc_topo.compression.random_k import RandomK
from dgc_topo.compression.terngrad import TernGrad
from dgc_topo.training.buckets import Bucket, Buckets, bucket_names
from dgc_topo.training.data import Dataset, Shard, load_dataset
from dgc_topo.training.job import Job
from dgc_topo.training.models import EmulatedTask, LearningTask, Task, make_task, take_image_size
from dgc_topo.zoo import load_model


def task_of(job: Job, place: int, num_workers: int, device: torch.device) -> Task:
    """Return what the worker at *place* (from 0, among those that train) has to do."""
    train = job.train
    if not train.emulates:
        return learning_task_of(job, place, num_workers, device)
    model = load_model(train.model).at_batch(train.batch_size_per_worker)
    compute_s = float(train.options.get("compute_s", model.compute_s))
    assert train.max_steps_per_epoch is not None
    shard = _shard(job, place, num_workers)
    return EmulatedTask(shard, device, model, compute_s, train.max_steps_per_epoch)


def learning_task_of(job: Job, place: int, num_workers: int, device: torch.device) -> LearningTask:
    """Return what the worker at *place* has to learn; nothing is emulated."""
    options = dict(job.train.options)
    dataset = _load(job.train.dataset, job.train.data_folder, take_image_size(options))
    shard = _shard(job, place, num_workers)
    return make_task(dataset, job.train.model, shard, options=options, device=device)


def _shard(job: Job, place: int, num_workers: int) -> Shard:
    return Shard(
        rank=place,
        num_workers=num_workers,
        batch_size=job.train.batch_size_per_worker,
        seed=job.seed,
    )


@lru_cache(maxsize=1)
def _load(name: str, root: Path | None, image_size: int | None) -> Dataset:
    """Load a data set once for all workers and jobs of a process; it is never written to."""
    return load_dataset(name, root=root, image_size=image_size)


def buckets_of(
    job: Job,
    parameters: Mapping[str, nn.Parameter],
    place: int,
    num_workers: int,
    *,
    gossip: bool = False,
) -> Buckets:
    """Return the gradient's buckets, one if nothing overlaps, with the compressor of each.

    Gossip applies it to the rank's own gradient.  With DDP it is dense: what one worker alone does.
    """
    names = bucket_names(parameters, None if gossip else job.bucket_bytes)
    buckets = []
    with warnings.catch_warnings():
        if len(names) > 1:  # some may well hold nothing that is worth compressing
            warnings.filterwarnings("ignore", "dgc compresses nothing")
        for some in names:
            own = {name: parameters[name] for name in some}
            buckets.append(Bucket(some, _compressor_of(job, own, place, num_workers, gossip)))
    return Buckets(buckets)


def _compressor_of(
    job: Job,
    parameters: Mapping[str, nn.Parameter],
    place: int,
    num_workers: int,
    gossip: bool,
) -> Compressor:
    """Return what compresses at the job's density."""
    train, compression = job.train, job.compression
    if job.method == "dgc":
        config = compression.dgc_config(job.density, train)
        return DGC(parameters, num_workers=num_workers, config=config)
    if job.method not in {"terngrad", "random-k"}:
        return Dense(
            parameters,
            momentum=train.momentum,
            nesterov=train.nesterov,
            weight_decay=train.weight_decay,
            decoupled_weight_decay=compression.weight_decay_mode == "decoupled",
            clip_norm=train.clip_norm,
            wire_dtype="float32" if gossip else compression.wire_dtype,
        )
    sgd = SGDSettings(
        momentum=train.momentum,
        nesterov=train.nesterov,
        weight_decay=train.weight_decay,
        decoupled_weight_decay=compression.weight_decay_mode == "decoupled",
        clip_norm=train.clip_norm,
    )
    if job.method == "terngrad":
        return TernGrad(parameters, rank=place, sgd=sgd, seed=job.seed)
    return RandomK(parameters, density=job.density, sgd=sgd, seed=job.seed)
