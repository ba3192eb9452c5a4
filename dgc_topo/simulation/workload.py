"""The `Workload`: a worker's training step: compute times, and gradients with their ready times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import lru_cache
from itertools import pairwise
from math import inf, prod
from typing import NamedTuple

from dgc_topo.sizes import (
    FLOAT_BYTES,
    bucket_ends,
    compressed_sizes,
    count_elements,
    is_compressed,
)
from dgc_topo.text import html_facts
from dgc_topo.units import bytes_text, seconds_text


class ReadyLayer(NamedTuple):
    """A layer whose gradients become complete together.

    Attributes:
        name: Name in traces.
        ready_s: Seconds after the backward pass began.
        tensor_sizes: Elements of each tensor of two dimensions or more, which DGC compresses.
        dense_elements: Elements in biases and normalisations, which DGC sends as they are.
        shapes: Shapes of the tensors of *tensor_sizes*; empty where only sizes are known.
    """

    name: str
    ready_s: float
    tensor_sizes: tuple[int, ...]
    dense_elements: int
    shapes: tuple[tuple[int, ...], ...] = ()

    @property
    def compressible_elements(self) -> int:
        """Number of elements that DGC compresses."""
        return sum(self.tensor_sizes)

    @property
    def num_elements(self) -> int:
        """Number of all elements."""
        return self.compressible_elements + self.dense_elements


def ready_layer(name: str, ready_s: float, tensors: Sequence[Sequence[int]]) -> ReadyLayer:
    """Return a layer of tensors of known shapes.

    Args:
        name: Name in traces.
        ready_s: Seconds after the backward pass began.
        tensors: Shapes of all its parameters.
    """
    shapes = tuple(tuple(shape) for shape in tensors if is_compressed(shape))
    dense_elements = count_elements(tensors)[1]
    return ReadyLayer(name, ready_s, compressed_sizes(shapes), dense_elements, shapes)


@dataclass(frozen=True, slots=True, repr=False)
class Workload:
    """Work of one worker in a training step, alone on its machine; no topology and no density.

    `load_workload` makes one from a model's name, a torch module, counts or a recorded run.

    Attributes:
        forward_s: Seconds of one forward pass.
        layers: Layers in the order of the backward pass; the last one ends it.
        name: Name in reports.
        source: Where layers and times come from.
        update_s: Seconds of the optimizer step, if they are not part of the passes.
        batch_size: Items per worker and pass.
        samples_per_item: Samples that throughput counts in an item: the tokens of a sequence.
        samples: Plural of what throughput counts.

    Raises:
        ValueError: if there is no layer, or times or numbers make no sense.
    """

    forward_s: float
    layers: tuple[ReadyLayer, ...]
    _: KW_ONLY
    name: str = "workload"
    source: str = "given"
    update_s: float = 0.0
    batch_size: int = 1
    samples_per_item: float = 1.0
    samples: str = "samples"

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("workload: no layers, expected at least one")
        times = [0.0, *(layer.ready_s for layer in self.layers)]
        if not all(0 <= before <= after < inf for before, after in pairwise(times)):
            raise ValueError(f"workload: ready_s {times[1:]}, expected times that do not fall")
        for key in ("forward_s", "update_s"):
            if not 0 <= getattr(self, key) < inf:
                raise ValueError(f"workload: {key} {getattr(self, key)}, expected 0 or more")
        if not self.batch_size >= 1 or not 0 <= self.samples_per_item < inf:
            raise ValueError(
                f"workload: batch_size {self.batch_size}, samples_per_item "
                f"{self.samples_per_item}; expected at least 1, and 0 or more"
            )
        for layer in self.layers:
            _check_layer(layer)

    def lasting(self, compute_s: float) -> Workload:
        """Return the same workload, scaled so that both passes together take *compute_s*."""
        factor = compute_s / self.compute_s if self.compute_s else 0.0
        layers = (layer._replace(ready_s=factor * layer.ready_s) for layer in self.layers)
        return replace(self, forward_s=factor * self.forward_s, layers=tuple(layers))

    @property
    def backward_s(self) -> float:
        """Seconds of one backward pass."""
        return self.layers[-1].ready_s

    @property
    def compute_s(self) -> float:
        """Seconds of one forward and backward pass."""
        return self.forward_s + self.backward_s

    @property
    def tensor_sizes(self) -> tuple[int, ...]:
        """Elements of each tensor that DGC compresses."""
        return tuple(size for layer in self.layers for size in layer.tensor_sizes)

    @property
    def dense_elements(self) -> int:
        """Number of elements that DGC sends as they are."""
        return sum(layer.dense_elements for layer in self.layers)

    @property
    def num_elements(self) -> int:
        """Number of elements of the gradient."""
        return sum(self.tensor_sizes) + self.dense_elements

    @property
    def gradient_bytes(self) -> int:
        """Bytes of the float32 gradient."""
        return FLOAT_BYTES * self.num_elements

    @property
    def batch_samples(self) -> float:
        """Samples per worker and pass."""
        return self.batch_size * self.samples_per_item

    def __repr__(self) -> str:
        return (
            f"Workload({self.name!r}, {bytes_text(self.gradient_bytes)} in {len(self.layers)} "
            f"layers, {seconds_text(self.compute_s)} for a batch of {self.batch_size})"
        )

    def _repr_html_(self) -> str:
        dense = self.dense_elements
        rows = {
            "gradient": f"{bytes_text(self.gradient_bytes)}, {len(self.layers)} layers",
            "elements": f"{self.num_elements:,}, of these {dense:,} always dense",
            "forward": seconds_text(self.forward_s),
            "backward": seconds_text(self.backward_s),
            "update": seconds_text(self.update_s) if self.update_s else "none, or within",
            "batch": f"{self.batch_size}, {self.batch_samples:g} {self.samples}",
            "source": self.source,
        }
        return html_facts(self.name, rows)


def _check_layer(layer: ReadyLayer) -> None:
    if min(layer.tensor_sizes, default=0) < 0 or layer.dense_elements < 0:
        raise ValueError(f"workload: layer {layer}, expected no fewer than 0 elements")
    if layer.shapes and tuple(map(prod, layer.shapes)) != layer.tensor_sizes:
        raise ValueError(f"workload: layer {layer}, expected shapes of tensor_sizes")


@dataclass(frozen=True, slots=True)
class LayerBucket:
    """Layers, next to each other in the backward pass, whose gradients are sent together.

    Attributes:
        layers: In the order in which their gradients become ready.
    """

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


def fill_buckets(
    layers: Sequence[ReadyLayer], bucket_bytes: float | None
) -> tuple[LayerBucket, ...]:
    """Return the buckets in the order they are sent, filled as `bucket_ends` says.

    Args:
        layers: In the order of the backward pass.
        bucket_bytes: Size of a bucket; None for one bucket after the backward pass, which
            overlaps nothing.

    Raises:
        ValueError: if *bucket_bytes* is not above 0.
    """
    return _filled(tuple(layers), bucket_bytes)


@lru_cache(maxsize=256)  # every prediction asks for them several times
def _filled(layers: tuple[ReadyLayer, ...], bucket_bytes: float | None) -> tuple[LayerBucket, ...]:
    if bucket_bytes is None:
        return (LayerBucket(layers),)
    ends = bucket_ends([layer.num_elements for layer in layers], bucket_bytes)
    return tuple(LayerBucket(layers[begin:end]) for begin, end in pairwise([0, *ends]))
