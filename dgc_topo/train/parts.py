"""The parts of a run that do not depend on where its workers live: task, compressor, gradients."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dgc_topo.compression import (
    DGC,
    Compressor,
    Dense,
    DGCConfig,
    RandomK,
    SGDSettings,
    Staleness,
    TernGrad,
)
from dgc_topo.results.measurement import QualityPoint, StalenessCounts
from dgc_topo.scenario import TrainSection
from dgc_topo.sizes import is_compressed
from dgc_topo.train.data import Dataset, Shard, load_dataset
from dgc_topo.train.job import Job
from dgc_topo.train.models import Score, Task, make_task, running_statistics
from dgc_topo.train.steps import StepRecord

_RANDOMS = 3  # purpose of the numbers a model draws, beside those of dgc_topo.train.data.batches

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class TrainingError(RuntimeError):
    """Training went wrong in a way that no result may hide."""


class DivergedError(TrainingError):
    """The loss is no longer finite.

    Attributes:
        step: The training step, from 0.
    """

    def __init__(self, text: str, step: int) -> None:
        super().__init__(text)
        self.step = step


def task_of(job: Job, place: int, num_workers: int, device: torch.device) -> Task:
    """Return what the worker at *place* (from 0, among those that train) has to learn."""
    shard = Shard(
        rank=place,
        num_workers=num_workers,
        batch_size=job.train.batch_size_per_worker,
        seed=job.seed,
    )
    options = dict(job.train.options)
    image_size = options.pop("image_size", None)
    if image_size is not None and type(image_size) is not int:
        raise ValueError(f"task: option image_size = {image_size!r}, expected int")
    dataset = _load(job.train.dataset, job.train.data_path, image_size)
    return make_task(dataset, job.train.model, shard, options=options, device=device)


@lru_cache(maxsize=1)
def _load(name: str, root: Path | None, image_size: int | None) -> Dataset:
    """Load a data set once for all workers and jobs of a process; it is never written to."""
    return load_dataset(name, root=root, image_size=image_size)


def compressor_of(
    job: Job,
    parameters: Mapping[str, nn.Parameter],
    place: int,
    num_workers: int,
    *,
    gossip: bool = False,
) -> Compressor:
    """Return what the scenario names: DGC below density 1, dense, or another method.

    Gossip applies it to the rank's own gradient.  With DDP it is dense: what one worker alone does.
    """
    train, compression = job.train, job.compression
    if compression.method in {"terngrad", "random-k"}:
        sgd = SGDSettings(
            momentum=train.momentum,
            nesterov=train.nesterov,
            weight_decay=train.weight_decay,
            decoupled_weight_decay=compression.weight_decay_mode == "decoupled",
            clip_norm=train.clip_norm,
        )
        if compression.method == "terngrad":
            return TernGrad(parameters, rank=place, sgd=sgd, seed=job.seed)
        return RandomK(parameters, density=job.density, sgd=sgd, seed=job.seed)
    if job.density == 1:
        return Dense(
            parameters,
            momentum=train.momentum,
            nesterov=train.nesterov,
            weight_decay=train.weight_decay,
            decoupled_weight_decay=compression.weight_decay_mode == "decoupled",
            clip_norm=train.clip_norm,
            wire_dtype=torch.float32 if gossip else DTYPES[compression.wire_dtype],
        )
    config = DGCConfig(
        density=job.density,
        momentum=train.momentum,
        nesterov=train.nesterov,
        selection=compression.selection,
        scope=compression.scope,
        merge=compression.merge,
        clear_velocities=compression.clear_velocities,
        clear_every_steps=compression.clear_every_steps,
        track_ages=compression.track_ages,
        accumulation=compression.accumulation,
        momentum_correction=compression.momentum_correction,
        masking=compression.masking,
        clip_norm=train.clip_norm if compression.clipping else None,
        weight_decay=train.weight_decay,
        weight_decay_mode=compression.weight_decay_mode,
        warm_up=compression.warm_up,
        warm_up_epochs=compression.warm_up_epochs,
        wire_dtype=compression.wire_dtype,
        index_encoding=compression.index_encoding,
    )
    return DGC(parameters, num_workers=num_workers, config=config)


def check_loss(job: Job, loss: float, rank: int, step: int) -> None:
    """Refuse a loss that is NaN or infinite.

    Raises:
        DivergedError: naming rank and step.
    """
    if not math.isfinite(loss):
        raise DivergedError(
            f"{job.label}: loss is {loss} on rank {rank} at step {step}: training diverged; try a "
            "smaller learning_rate",
            step,
        )


def steps_per_epoch(train: TrainSection, task: Task) -> int:
    """Return the steps in an epoch, as the scenario limits them."""
    limit, steps = train.max_steps_per_epoch, task.steps_per_epoch
    return steps if limit is None else min(steps, limit)


def learning_rate_at(train: TrainSection, progress: float) -> float:
    """Return the learning rate after the fraction *progress* of all steps."""
    if train.learning_rate_decay == "cosine":
        return train.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
    return train.learning_rate


def seed_randoms(seed: int, place: int) -> None:
    """Seed what a model draws while it trains (dropout): another stream for every worker."""
    sequence = np.random.SeedSequence([seed, place, _RANDOMS])
    torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]) >> 1)


class Share(NamedTuple):
    """What one rank knows of an epoch."""

    score: Score  #: of its part of the test set
    loss: float  #: mean over its steps; 0 on a server
    density: float  #: fraction of the compressed elements that it sent, mean over its steps


def share_of(score: Score, done: Sequence[StepRecord], parameters: Mapping[str, Tensor]) -> Share:
    """Return a rank's share from what it noted in the steps of an epoch."""
    compressed = sum(p.numel() for p in parameters.values() if is_compressed(p.shape))
    sent = [r.entries / compressed if r.entries else r.density for r in done]
    return Share(score, float(np.mean([r.loss for r in done])), float(np.mean(sent)))


def quality_point(
    epoch: int, num_steps: int, shares: Sequence[Share], contributors: Sequence[int]
) -> QualityPoint:
    """Return what an evaluation gave.

    Args:
        epoch: From 0.
        num_steps: In an epoch.
        shares: By rank; they are added in this order, so that sums have the same bits everywhere.
        contributors: The ranks that train.
    """
    total, loss, density = Score(shares[0].score.metric, 0.0, 0), 0.0, 0.0
    for rank in contributors:
        total += shares[rank].score
        loss += shares[rank].loss
        density += shares[rank].density
    return QualityPoint(
        epoch=epoch + 1,
        step=(epoch + 1) * num_steps,
        value=total.value,
        train_loss=loss / len(contributors),
        density=density / len(contributors),
    )


def staleness_of(job: Job, compressor: Compressor) -> Staleness | None:
    """Return how long elements waited, if the job asks for it and its compressor lets them wait."""
    if job.compression.track_ages and isinstance(compressor, DGC):
        return compressor.staleness()
    return None


def add_staleness(found: Sequence[Staleness | None]) -> StalenessCounts | None:
    """Return the counts of all workers together; None if they were not counted."""
    known = [each for each in found if each is not None]
    if not known:
        return None
    sent, waiting = (np.sum(counts, axis=0).tolist() for counts in zip(*known, strict=True))
    return StalenessCounts(sent=tuple(sent), waiting=tuple(waiting))


def flat_statistics(model: nn.Module) -> Tensor:
    """Return a model's running statistics end to end; shape (0,) if it has none."""
    statistics = running_statistics(model)
    return torch.cat([t.reshape(-1) for t in statistics]) if statistics else torch.empty(0)


def set_average(targets: Sequence[Tensor], flats: Sequence[Tensor]) -> None:
    """Set *targets* to the average of the workers' *flats*, summed in the order given."""
    total = torch.zeros_like(flats[0])
    for flat in flats:
        total += flat
    total /= len(flats)
    for target, part in zip(targets, torch.split(total, [t.numel() for t in targets]), strict=True):
        target.copy_(part.view_as(target))


def fingerprint(parameters: Mapping[str, Tensor]) -> str:
    """Return a digest of the parameters' bits."""
    digest = hashlib.sha256()
    for parameter in parameters.values():
        digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
