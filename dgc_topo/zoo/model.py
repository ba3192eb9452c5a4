"""Models of the zoo: tensors to send, and when their gradients are ready.

A model is a list of layers in forward order.  A layer has the shapes of its parameters and the
floating-point operations of its forward pass; the whole model has one compute time with a source.
Layers share that time in proportion to their operations.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from math import inf, prod
from typing import Literal

from dgc_topo.sizes import FLOAT_BYTES, RUN_LENGTH_BYTES, count_elements, dgc_bytes

Shape = tuple[int, ...]
LayerKind = Literal["convolution", "linear", "lstm", "embedding", "attention", "mlp"]

#: One pass forward, two backward: with respect to the inputs and to the parameters.  The usual
#: count of multiplications (Kaplan et al. 2020, arXiv:2001.08361, section 2.1: 2N and 4N).
FORWARD_SHARE = 1 / 3


@dataclass(frozen=True, slots=True)
class Layer:
    """One step of the forward pass, whose gradients become ready together.

    Attributes:
        name: Unique in its model.
        kind: Kind of work; a normalisation belongs to the layer that it follows or precedes.
        tensors: Shapes of its parameters, as PyTorch stores them.
        flops: Floating-point operations of the forward pass for one item of a batch; a
            multiplication and its addition are two.

    Raises:
        ValueError: if a shape or the operations make no sense.
    """

    name: str
    kind: LayerKind
    tensors: tuple[Shape, ...]
    flops: float

    def __post_init__(self) -> None:
        for shape in self.tensors:
            if not all(size >= 1 for size in shape):
                raise ValueError(f"layer {self.name}: shape {shape}, expected sizes of 1 or more")
        if not 0 <= self.flops < inf:
            raise ValueError(f"layer {self.name}: flops {self.flops}, expected 0 or more")

    @property
    def num_elements(self) -> int:
        """Elements of all its parameters."""
        return sum(prod(shape) for shape in self.tensors)

    @property
    def compressible_elements(self) -> int:
        """Elements of the tensors with more than one dimension, which DGC compresses."""
        return count_elements(self.tensors)[0]

    @property
    def dense_elements(self) -> int:
        """Elements of the biases and normalisations, which DGC sends as they are."""
        return count_elements(self.tensors)[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeTime:
    """Compute time of a worker per step, at the batch sizes that somebody timed.

    A published throughput counts whole steps, so the optimizer's update is inside.

    Attributes:
        points: ``(batch size, seconds forward and backward)``, batch sizes rising.
        hardware: Machine that it ran on.
        precision: Arithmetic of the matrix multiplications.
        origin: ``published``, ``measured`` by us, or ``derived`` from operations and a sourced
            rate: never a measurement of this model.
        source: Source with its words, and where that differs from the zoo's model.

    Raises:
        ValueError: if there is no point, or the points are not in order, or doing more per step
            costs more per item.
    """

    points: tuple[tuple[int, float], ...]
    hardware: str
    precision: str
    origin: Literal["published", "measured", "derived"]
    source: str

    def __post_init__(self) -> None:
        if not self.points or not all(n >= 1 and 0 < s < inf for n, s in self.points):
            raise ValueError(f"compute time: {self.points}, expected batch sizes and seconds > 0")
        for (small, less_s), (large, more_s) in pairwise(self.points):
            if not (small < large and less_s < more_s and less_s / small >= more_s / large):
                raise ValueError(
                    f"compute time: batch {small} in {less_s} s, then {large} in {more_s} s; "
                    "expected rising batch sizes and seconds, and no more seconds per item"
                )

    def seconds(self, batch_size: int) -> float:
        """Return the seconds of one step, forward and backward.

        The straight line through the two nearest points; with a single point in proportion to
        the batch size, which is too little for small batches.

        Raises:
            ValueError: if *batch_size* is below 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size}, expected at least 1")
        (near, near_s), *others = self.points
        if not others:
            return near_s * batch_size / near
        far, far_s = others[0]
        for (left, left_s), (right, right_s) in pairwise(self.points):
            if batch_size > left:
                near, near_s, far, far_s = left, left_s, right, right_s
        return near_s + (far_s - near_s) * (batch_size - near) / (far - near)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model of the zoo at one batch size per worker.

    Attributes:
        name: Name for people.
        summary: Name and task of the model, with the source of its architecture.
        layers: In forward order.
        compute: Compute time and its source.
        batch_size: Items per worker and step.
        item: Item that the batch size counts: images, sequences, utterances.
        samples: Samples that its throughput counts.
        samples_per_item: Samples in one item: the tokens of a sequence, else 1.

    Raises:
        ValueError: if two layers share a name, no layer computes, or a number is below 1.
    """

    name: str
    summary: str
    layers: tuple[Layer, ...] = field(repr=False)
    compute: ComputeTime
    batch_size: int
    item: Literal["images", "sequences", "utterances"]
    samples: Literal["images", "tokens", "sequences", "utterances"]
    samples_per_item: int = 1

    def __post_init__(self) -> None:
        counts = Counter(layer.name for layer in self.layers)
        twice = [name for name, count in counts.items() if count > 1]
        if twice:
            raise ValueError(f"model {self.name}: {twice} more than once, expected unique names")
        if not self.flops > 0:
            raise ValueError(f"model {self.name}: no operations, expected a layer that computes")
        if self.batch_size < 1 or self.samples_per_item < 1:
            sizes = f"batch_size {self.batch_size}, samples_per_item {self.samples_per_item}"
            raise ValueError(f"model {self.name}: {sizes}, expected at least 1")

    def at_batch(self, batch_size: int) -> Model:
        """Return the same model at another batch size; its time is that of `ComputeTime.seconds`.

        Raises:
            ValueError: if *batch_size* is below 1.
        """
        return replace(self, batch_size=batch_size)

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Shapes of all parameters, in forward order."""
        return tuple(shape for layer in self.layers for shape in layer.tensors)

    @property
    def num_elements(self) -> int:
        """Elements of all parameters."""
        return sum(layer.num_elements for layer in self.layers)

    @property
    def compressible_elements(self) -> int:
        """Elements of the tensors with more than one dimension, which DGC compresses."""
        return count_elements(self.shapes)[0]

    @property
    def dense_elements(self) -> int:
        """Elements of the biases and normalisations, which DGC sends as they are."""
        return count_elements(self.shapes)[1]

    @property
    def gradient_bytes(self) -> int:
        """Bytes of the float32 gradient."""
        return FLOAT_BYTES * self.num_elements

    @property
    def flops(self) -> float:
        """Operations of the forward pass for one item of a batch."""
        return sum(layer.flops for layer in self.layers)

    @property
    def batch_samples(self) -> int:
        """Samples per worker and step."""
        return self.batch_size * self.samples_per_item

    @property
    def compute_s(self) -> float:
        """Seconds of the forward and the backward pass."""
        return self.compute.seconds(self.batch_size)

    @property
    def forward_s(self) -> float:
        """Seconds of the forward pass: a third, by operations."""
        return FORWARD_SHARE * self.compute_s

    @property
    def backward_s(self) -> float:
        """Seconds of the backward pass: two thirds, by operations."""
        return self.compute_s - self.forward_s

    def ready_times_s(self) -> tuple[float, ...]:
        """Return the time at which the gradients of each layer are complete.

        The backward pass visits the layers from the last to the first and gives each a share of
        `backward_s` in proportion to its operations.  A tensor that two layers share (a tied
        embedding) belongs to the first of them, where its gradient is complete.

        Returns:
            Seconds after the backward pass began, one per layer in the order of `layers`: the
            first layer's is `backward_s`, the last layer's is the earliest.
        """
        done = accumulate(layer.flops for layer in reversed(self.layers))
        scale = self.backward_s / self.flops
        ready = [scale * flops for flops in done]
        ready[-1] = self.backward_s  # not a rounding error away from it
        return tuple(reversed(ready))

    def dgc_bytes(self, density: float, bytes_per_element: float = RUN_LENGTH_BYTES) -> float:
        """Return the bytes that a worker sends, as `dgc_topo.sizes.dgc_bytes`.

        Raises:
            ValueError: if *density* or *bytes_per_element* makes no sense.
        """
        return dgc_bytes(self.shapes, density, bytes_per_element)
