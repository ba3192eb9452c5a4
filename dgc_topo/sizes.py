"""Sizes of gradients, dense and compressed by DGC, by arithmetic alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf, prod

FLOAT_BYTES = 4  #: a float32
RUN_LENGTH_BYTES = 6  #: the DGC paper's element: a float32 and a 16-bit run of zeros before it


def dgc_bytes(
    shapes: Iterable[Sequence[int]],
    density: float,
    bytes_per_element: float = RUN_LENGTH_BYTES,
) -> float:
    """Return the bytes of one rank's compressed gradient, as the DGC paper counts them.

    ``bytes_per_element * density * (elements of tensors with more than one dimension)
    + 4 * (elements of 1-D tensors)``; the paper's element is a float32 and a 16-bit run of zeros.
    A real selection sends whole elements, so it differs by up to half an element per tensor
    (more where a tensor is so small that its one element is above *density*).

    Args:
        shapes: Shape of each parameter.
        density: Fraction of the compressed tensors' elements that is sent, 0 to 1.
        bytes_per_element: Value and index of one sent element, above 0.

    Raises:
        ValueError: if *density* or *bytes_per_element* makes no sense.
    """
    if not 0 <= density <= 1:
        raise ValueError(f"density {density}, expected 0 to 1")
    if not 0 < bytes_per_element < inf:
        raise ValueError(f"bytes_per_element {bytes_per_element}, expected above 0")
    compressed, dense = count_elements(shapes)
    return bytes_per_element * density * compressed + FLOAT_BYTES * dense


def entries_of(num_elements: int, density: float) -> int:
    """Return the number of entries that a group sends: ``round(density * n)``, at least one.

    A group is a tensor, or with scope ``model`` all compressed tensors together; its largest
    elements are sent.  A real run sends fewer entries only if fewer elements differ from zero.

    Args:
        num_elements: Elements n of the group.
        density: Fraction to send, 0 to 1.
    """
    return min(num_elements, max(1, round(density * num_elements)))


def count_entries(group_sizes: Iterable[int], density: float) -> int:
    """Return the number of entries that groups of these sizes send together, see `entries_of`."""
    return sum(entries_of(num_elements, density) for num_elements in group_sizes)


def compressed_sizes(shapes: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """Return the elements of each tensor that DGC compresses, in order."""
    return tuple(prod(shape) for shape in shapes if is_compressed(shape))


def count_elements(shapes: Iterable[Sequence[int]]) -> tuple[int, int]:
    """Return the number of elements that DGC compresses, and of those that travel dense."""
    compressed = dense = 0
    for shape in shapes:
        if is_compressed(shape):
            compressed += prod(shape)
        else:
            dense += prod(shape)
    return compressed, dense


def bucket_ends(num_elements: Sequence[int], bucket_bytes: float) -> list[int]:
    """Return the ends of buckets of layers, the layers in the order of the backward pass.

    As in PyTorch's DistributedDataParallel, a bucket is closed once it holds *bucket_bytes* of
    float32 or more, so one large layer makes one large bucket.  (DDP's first bucket is smaller, 1
    MiB; here all have the same limit.)

    Args:
        num_elements: Number of elements of each layer.
        bucket_bytes: Size at which a bucket is closed.

    Raises:
        ValueError: if *bucket_bytes* is not above 0.
    """
    if not bucket_bytes > 0:
        raise ValueError(f"buckets: bucket_bytes {bucket_bytes}, expected above 0")
    ends, held_bytes = [], 0
    for end, elements in enumerate(num_elements, 1):
        held_bytes += FLOAT_BYTES * elements
        if held_bytes >= bucket_bytes or end == len(num_elements):
            ends.append(end)
            held_bytes = 0
    return ends


def is_sparse(density: float) -> bool:
    """Return True if a density means sparse entries; at 1 the whole buffer is sent, dense."""
    return density < 1


def is_compressed(shape: Sequence[int]) -> bool:
    """Return True if DGC compresses a tensor of this shape: all but biases, norms and scalars."""
    return len(shape) > 1
