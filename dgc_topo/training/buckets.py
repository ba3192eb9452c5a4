"""Buckets: parts of the gradient, each compressed and sent by itself."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise

import numpy as np
import torch
from torch import Tensor, nn

from dgc_topo.compression.accumulation import Staleness
from dgc_topo.compression.after_sum import SGDSettings
from dgc_topo.compression.compressor import Compressor
from dgc_topo.compression.dense import Dense
from dgc_topo.compression.dgc import DGC
from dgc_topo.compression.gradients import Gradients
from dgc_topo.compression.random_k import RandomK
from dgc_topo.compression.terngrad import TernGrad
from dgc_topo.payload import BundlePayload, Payload, SparsePayload
from dgc_topo.sizes import bucket_ends
from dgc_topo.training.job import Job
from dgc_topo.training.optimizers import OptimizerStep, make_optimizer
from dgc_topo.wire.coding import WireDtype

#: Moves the parameters by updates, by name, with a learning rate.
Move = Callable[[Mapping[str, Tensor], float], None]


@dataclass(frozen=True, slots=True)
class Bucket:
    """Parameters whose gradients travel together.

    Attributes:
        names: Of the parameters.
        compressor: Compresses their gradients.
    """

    names: tuple[str, ...]
    compressor: Compressor

    def compress(self, gradients: Gradients) -> Payload:
        """Return this rank's part of the sum of the bucket's gradients."""
        return self.compressor.compress({name: gradients[name] for name in self.names})


class Buckets:
    """All of a gradient, in the order in which its parts travel.

    Args:
        buckets: At least one; every rank has the same ones.
    """

    def __init__(self, buckets: Sequence[Bucket]) -> None:
        self.buckets = tuple(buckets)

    @property
    def density(self) -> float:
        """Fraction sent at the current progress, the same in all buckets."""
        return self.buckets[0].compressor.density

    def set_progress(self, epoch: float) -> None:
        """See `Compressor.set_progress`."""
        for bucket in self.buckets:
            bucket.compressor.set_progress(epoch)

    def compress(self, gradients: Gradients) -> list[Payload]:
        """Return a payload per bucket; see `Compressor.compress`."""
        return [bucket.compress(gradients) for bucket in self.buckets]

    def neutral(self) -> list[Payload]:
        """Return payloads that add nothing."""
        return [bucket.compressor.neutral() for bucket in self.buckets]

    def finish(self, payloads: Sequence[Payload]) -> dict[str, Tensor]:
        """Return the update of every parameter from the summed payloads."""
        updates: dict[str, Tensor] = {}
        for bucket, payload in zip(self.buckets, payloads, strict=True):
            updates |= bucket.compressor.finish(payload)
        return updates

    def state_dict(self) -> list[dict[str, object]]:
        """Return the state of every bucket's compressor."""
        return [bucket.compressor.state_dict() for bucket in self.buckets]

    def load_state_dict(self, states: Sequence[Mapping[str, object]]) -> None:
        """Go on from such states, bit for bit."""
        for bucket, state in zip(self.buckets, states, strict=True):
            bucket.compressor.load_state_dict(state)

    def staleness(self) -> Staleness | None:
        """Return the steps that elements waited; None if compressors let none wait."""
        compressors = [bucket.compressor for bucket in self.buckets]
        found = [each.staleness() for each in compressors if isinstance(each, DGC)]
        return add_up(found) if found else None


def add_up(found: Sequence[Staleness]) -> Staleness:
    """Return the sum of the counts of parts, or of workers, at least one."""
    return Staleness(*(np.sum(counts, axis=0).tolist() for counts in zip(*found, strict=True)))


def bucket_names(
    parameters: Mapping[str, Tensor], bucket_bytes: float | None
) -> list[tuple[str, ...]]:
    """Return the names of each bucket's parameters, in the order of complete gradients.

    Gradients are assumed to be complete in the reverse order in which the model's modules were
    made, as in DistributedDataParallel.  A module's parameters stay together.

    Args:
        parameters: The model's, by name.
        bucket_bytes: Float32 bytes of a bucket, see `bucket_ends`; None for a single one.
    """
    if bucket_bytes is None:
        return [tuple(parameters)]
    layers = list(reversed(by_module(parameters).values()))
    sizes = [sum(parameters[name].numel() for name in layer) for layer in layers]
    ends = bucket_ends(sizes, bucket_bytes)
    return [tuple(chain(*layers[begin:end])) for begin, end in pairwise([0, *ends])]


def by_module(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the parameters of each module, in the order in which the modules were made."""
    modules: dict[str, list[str]] = {}
    for name in names:
        modules.setdefault(name.rpartition(".")[0] or name, []).append(name)
    return modules


def buckets_of(
    job: Job, parameters: Mapping[str, nn.Parameter], place: int, num_workers: int
) -> Buckets:
    """Return the gradient's buckets, a single one if nothing overlaps, each with its compressor.

    With DDP the compressor is dense, for a worker that is timed alone.
    """
    names = bucket_names(parameters, job.bucket_bytes)
    buckets = []
    with warnings.catch_warnings():
        if len(names) > 1:  # some buckets may have no tensors to compress
            warnings.filterwarnings("ignore", "dgc compresses nothing")
        for some in names:
            own = {name: parameters[name] for name in some}
            buckets.append(Bucket(some, _compressor_of(job, own, place, num_workers)))
    return Buckets(buckets)


def _compressor_of(
    job: Job, parameters: Mapping[str, nn.Parameter], place: int, num_workers: int
) -> Compressor:
    """Return the compressor for the job's density."""
    train, compression = job.train, job.compression
    if job.method == "dgc":
        config = compression.dgc_config(job.density, train)
        return DGC(parameters, num_workers=num_workers, config=config)
    if job.method not in {"terngrad", "random-k"}:
        return dense_compressor(job, parameters, compression.wire_dtype)
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


def dense_compressor(
    job: Job, parameters: Mapping[str, nn.Parameter], wire_dtype: WireDtype
) -> Dense:
    """Return the compressor that sends everything, with the momentum of a job's SGD."""
    train = job.train
    return Dense(
        parameters,
        momentum=train.momentum if train.is_sgd else 0.0,
        nesterov=train.nesterov,
        weight_decay=train.weight_decay,
        decoupled_weight_decay=job.compression.weight_decay_mode == "decoupled",
        clip_norm=train.clip_norm,
        wire_dtype=wire_dtype,
    )


def move_of(job: Job, parameters: Mapping[str, nn.Parameter]) -> Move:
    """Return the function that moves the parameters by what `Buckets.finish` returns."""
    if job.rule.is_local or job.train.is_sgd or job.compression.uses_ddp:
        return partial(apply_updates, parameters)
    return OptimizerStep(parameters, make_optimizer(job.train, parameters.values()))


@torch.no_grad()
def apply_updates(
    parameters: Mapping[str, nn.Parameter], updates: Mapping[str, Tensor], learning_rate: float
) -> None:
    """Move every parameter by ``-learning_rate * update``."""
    torch._foreach_add_(
        [parameters[name] for name in updates], list(updates.values()), alpha=-learning_rate
    )


def gradients_of(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor | None]:
    """Return each parameter's gradient; one that took no part in the loss has None."""
    return {name: parameter.grad for name, parameter in parameters.items()}


def sparse_entries(*payloads: Payload) -> int:
    """Return the number of entries in the sparse parts of *payloads*."""
    total = 0
    for payload in payloads:
        if isinstance(payload, BundlePayload):
            total += sparse_entries(*payload.parts)
        elif isinstance(payload, SparsePayload):
            total += payload.num_entries
    return total
