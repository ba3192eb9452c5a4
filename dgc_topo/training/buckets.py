"""Buckets: parts of the gradient that are compressed, and travel, each by itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np
from torch import Tensor

from dgc_topo.compression.accumulation import Staleness
from dgc_topo.compression.compressor import Compressor
from dgc_topo.compression.dgc import DGC
from dgc_topo.compression.gradients import Gradients
from dgc_topo.payload import Payload
from dgc_topo.sizes import bucket_ends


@dataclass(frozen=True, slots=True)
class Bucket:
    """Parameters whose gradients travel together, and what compresses them."""

    names: tuple[str, ...]
    compressor: Compressor

    def compress(self, gradients: Gradients) -> Payload:
        """Return what this rank contributes to the sum of the bucket's gradients."""
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
        """As `Compressor.set_progress`."""
        for bucket in self.buckets:
            bucket.compressor.set_progress(epoch)

    def compress(self, gradients: Gradients) -> list[Payload]:
        """Return a payload per bucket; as `Compressor.compress`."""
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

    def staleness(self) -> Staleness | None:
        """Return how long elements waited; None if compressors let none wait."""
        compressors = [bucket.compressor for bucket in self.buckets]
        found = [each.staleness() for each in compressors if isinstance(each, DGC)]
        return add_up(found) if found else None


def add_up(found: Sequence[Staleness]) -> Staleness:
    """Return the counts of parts, or of workers, together; there is at least one."""
    return Staleness(*(np.sum(counts, axis=0).tolist() for counts in zip(*found, strict=True)))


def bucket_names(
    parameters: Mapping[str, Tensor], bucket_bytes: float | None
) -> list[tuple[str, ...]]:
    """Return which parameters travel together, those first whose gradients are complete first.

    That is taken to be the reverse of the order in which the model's modules were made, as in
    DistributedDataParallel; a module's parameters stay together.

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
