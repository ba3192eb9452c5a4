"""The report of what DGC compresses of a real model, and what stays dense."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from dgc_topo.sizes import FLOAT_BYTES, entries_of, is_compressed
from dgc_topo.wire.coding import VALUE_BYTES, WireCoding


def describe_dgc(parameters: Mapping[str, Tensor], density: float, coding: WireCoding) -> str:
    """Return a table of which parameters are compressed at *density* and which stay dense.

    Each row gives the shape, the elements, how the tensor travels, the entries it sends per step,
    and the bytes to expect of them: all compressed tensors are one message, whose indices and
    header are shared out by entries.  The first line is the verdict.
    """
    counts = [_count(tensor, density) for tensor in parameters.values()]
    length = sum(t.numel() for t, n in zip(parameters.values(), counts, strict=True) if n)
    entries = max(1, sum(counts))
    message = coding.expected_bytes(np.array([max(1, length)]), np.array([entries]))
    sizes = float(message[0]) / entries, VALUE_BYTES[coding.wire_dtype]
    rows = [
        _row(name, tensor, count, *sizes)
        for (name, tensor), count in zip(parameters.items(), counts, strict=True)
    ]
    compressed = [row for row in rows if row[3] == "sparse"]
    elements, sent = sum(row[2] for row in rows), round(sum(row[5] for row in rows))
    share = sum(row[2] for row in compressed) / elements if elements else 0.0
    ratio = f", ratio {elements * FLOAT_BYTES / sent:,.1f}" if sent else ""
    verdict = (
        f"dgc at density {density:g} compresses {len(compressed)} of {len(rows)} tensors, "
        f"{share:.2%} of {elements:,} elements: {elements * FLOAT_BYTES:,} -> {sent:,} bytes "
        f"per step{ratio}"
    )
    width = max((len(name) for name in parameters), default=0)
    lines = [
        f"  {name:<{width}}  {shape:>16}  {count:>13,}  {how:<6}  {entries:>11,}  {size:>13,.0f}"
        for name, shape, count, how, entries, size in rows
    ]
    header = (
        f"  {'parameter':<{width}}  {'shape':>16}  {'elements':>13}  {'as':<6}  "
        f"{'sent':>11}  {'bytes':>13}"
    )
    return "\n".join([verdict, header, *lines])


def _count(tensor: Tensor, density: float) -> int:
    """Return how many entries of a tensor are sent; 0 if it travels dense."""
    sparse = density < 1 and is_compressed(tensor.shape)
    return entries_of(tensor.numel(), density) if sparse else 0


def _row(
    name: str, tensor: Tensor, entries: int, entry_bytes: float, element_bytes: int
) -> tuple[str, str, int, str, int, float]:
    shape = "x".join(map(str, tensor.shape)) or "scalar"
    count = tensor.numel()
    if entries:
        return name, shape, count, "sparse", entries, entries * entry_bytes
    return name, shape, count, "dense", count, count * element_bytes
