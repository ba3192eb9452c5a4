"""What a worker computes in a step, and when which gradients are complete."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import NamedTuple

from dgc_topo.sizes import bucket_ends, compressed_sizes
from dgc_topo.zoo import Model


class ReadyLayer(NamedTuple):
    """A layer whose gradients become complete together.

    Attributes:
        name: For traces.
        ready_s: Seconds after the backward pass began.
        tensor_sizes: Elements of each tensor of two dimensions or more, which DGC compresses.
        dense_elements: Elements in biases and normalisations, which DGC sends as they are.
    """

    name: str
    ready_s: float
    tensor_sizes: tuple[int, ...]
    dense_elements: int

    @property
    def compressible_elements(self) -> int:
        """Elements that DGC compresses."""
        return sum(self.tensor_sizes)

    @property
    def num_elements(self) -> int:
        """All elements."""
        return self.compressible_elements + self.dense_elements


@dataclass(frozen=True, slots=True)
class Profile:
    """The compute of one worker that has its machine to itself.

    Attributes:
        forward_s: Seconds of one forward pass.
        layers: In the order of the backward pass; the last one ends it.

    Raises:
        ValueError: if there is no layer, or times or elements make no sense.
    """

    forward_s: float
    layers: tuple[ReadyLayer, ...]

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("profile: no layers, expected at least one")
        times = [0.0, *(layer.ready_s for layer in self.layers)]
        if not all(0 <= before <= after < inf for before, after in pairwise(times)):
            raise ValueError(f"profile: ready_s {times[1:]}, expected times that do not fall")
        if not 0 <= self.forward_s < inf:
            raise ValueError(f"profile: forward_s {self.forward_s}, expected 0 or more")
        for layer in self.layers:
            if min((*layer.tensor_sizes, layer.dense_elements)) < 0:
                raise ValueError(f"profile: layer {layer}, expected no fewer than 0 elements")

    @classmethod
    def of_model(cls, model: Model) -> Profile:
        """Return the profile of a model of the zoo, at its batch size."""
        layers = [
            ReadyLayer(layer.name, ready_s, compressed_sizes(layer.tensors), layer.dense_elements)
            for layer, ready_s in zip(model.layers, model.ready_times_s(), strict=True)
        ]
        return cls(model.forward_s, tuple(reversed(layers)))

    @classmethod
    def of_whole(cls, compute_s: float, compressible_elements: int, dense_elements: int) -> Profile:
        """Return a profile whose gradients are all complete at the end, such as a recorded run's.

        Args:
            compute_s: Forward and backward pass; nothing is said of how they share it.
            compressible_elements: Of all tensors that DGC compresses; they count as one.
            dense_elements: See `ReadyLayer`.
        """
        sizes = (compressible_elements,)
        return cls(0.0, (ReadyLayer("model", compute_s, sizes, dense_elements),))

    def lasting(self, compute_s: float) -> Profile:
        """Return the same profile stretched so that both passes together take *compute_s*."""
        factor = compute_s / self.compute_s if self.compute_s else 0.0
        layers = (layer._replace(ready_s=factor * layer.ready_s) for layer in self.layers)
        return Profile(factor * self.forward_s, tuple(layers))

    @property
    def backward_s(self) -> float:
        """Seconds of one backward pass."""
        return self.layers[-1].ready_s

    @property
    def compute_s(self) -> float:
        """Seconds of one forward and backward pass."""
        return self.forward_s + self.backward_s

    @property
    def num_elements(self) -> int:
        """Elements of the gradient."""
        return sum(layer.num_elements for layer in self.layers)


@dataclass(frozen=True, slots=True)
class Bucket:
    """Layers, next to each other in the backward pass, whose gradients are sent together."""

    layers: tuple[ReadyLayer, ...]

    @property
    def ready_s(self) -> float:
        """Seconds after the backward pass began."""
        return self.layers[-1].ready_s

    @property
    def tensor_sizes(self) -> tuple[int, ...]:
        """Elements of each tensor that DGC compresses."""
        return tuple(size for layer in self.layers for size in layer.tensor_sizes)

    @property
    def compressible_elements(self) -> int:
        """Elements that DGC compresses."""
        return sum(layer.compressible_elements for layer in self.layers)

    @property
    def dense_elements(self) -> int:
        """Elements that DGC sends as they are."""
        return sum(layer.dense_elements for layer in self.layers)

    @property
    def num_elements(self) -> int:
        """All elements."""
        return self.compressible_elements + self.dense_elements


def fill_buckets(layers: Sequence[ReadyLayer], bucket_bytes: float | None) -> tuple[Bucket, ...]:
    """Return the buckets in the order they are sent, filled as `bucket_ends` says.

    Args:
        layers: In the order of the backward pass.
        bucket_bytes: Size of a bucket; None for one bucket after the backward pass, which
            overlaps nothing.

    Raises:
        ValueError: if *bucket_bytes* is not above 0.
    """
    if bucket_bytes is None:
        return (Bucket(tuple(layers)),)
    ends = bucket_ends([layer.num_elements for layer in layers], bucket_bytes)
    return tuple(Bucket(tuple(layers[begin:end])) for begin, end in pairwise([0, *ends]))
