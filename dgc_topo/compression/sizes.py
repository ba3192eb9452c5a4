"""What DGC puts on the wire, by arithmetic: the paper's sizes, and the report on a real model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod

from torch import Tensor

from dgc_topo.compression.selection import layer_count
from dgc_topo.payload.wire import ENTRY_BYTES

FLOAT_BYTES = 4


def dgc_bytes(
    shapes: Iterable[Sequence[int]], density: float, bytes_per_element: float = 6
) -> float:
    """Return the bytes of one rank's compressed gradient, as the DGC paper counts them.

    ``bytes_per_element * density * (elements of tensors with more than one dimension)
    + 4 * (elements of 1-D tensors)``; the paper's element is a float32 and a 16-bit run of zeros.
    A real selection sends whole elements, so it differs by up to half an element per tensor
    (more where a tensor is so small that its one element is above *density*).

    Args:
        shapes: Shape of each parameter.
        density: Fraction of the compressed tensors' elements that is sent.
        bytes_per_element: Value and index of one sent element.
    """
    compressed = dense = 0
    for shape in shapes:
        if is_compressed(shape):
            compressed += prod(shape)
        else:
            dense += prod(shape)
    return bytes_per_element * density * compressed + FLOAT_BYTES * dense


def is_compressed(shape: Sequence[int]) -> bool:
    """Return whether DGC compresses a tensor: all but biases, norms and scalars."""
    return len(shape) > 1


def describe_dgc(parameters: Mapping[str, Tensor], density: float) -> str:
    """Return a table of which parameters are compressed at *density* and which stay dense.

    Each row gives the shape, the elements, how the tensor travels, the entries it sends per step,
    and their bytes on this library's wire.  The first line is the verdict.
    """
    rows = [_row(name, tensor, density) for name, tensor in parameters.items()]
    compressed = [row for row in rows if row[3] == "sparse"]
    elements, sent = sum(row[2] for row in rows), sum(row[5] for row in rows)
    share = sum(row[2] for row in compressed) / elements if elements else 0.0
    ratio = f", ratio {elements * FLOAT_BYTES / sent:,.1f}" if sent else ""
    verdict = (
        f"dgc at density {density:g} compresses {len(compressed)} of {len(rows)} tensors, "
        f"{share:.2%} of {elements:,} elements: {elements * FLOAT_BYTES:,} -> {sent:,} bytes "
        f"per step{ratio}"
    )
    width = max((len(name) for name in parameters), default=0)
    lines = [
        f"  {name:<{width}}  {shape:>16}  {count:>13,}  {how:<6}  {entries:>11,}  {size:>13,}"
        for name, shape, count, how, entries, size in rows
    ]
    header = (
        f"  {'parameter':<{width}}  {'shape':>16}  {'elements':>13}  {'as':<6}  "
        f"{'sent':>11}  {'bytes':>13}"
    )
    return "\n".join([verdict, header, *lines])


def _row(name: str, tensor: Tensor, density: float) -> tuple[str, str, int, str, int, int]:
    shape = "x".join(map(str, tensor.shape)) or "scalar"
    count = tensor.numel()
    if density < 1 and is_compressed(tensor.shape):
        entries = layer_count(count, density)
        return name, shape, count, "sparse", entries, entries * ENTRY_BYTES
    return name, shape, count, "dense", count, count * FLOAT_BYTES
