"""The report of what DGC compresses of a real model, and what stays dense."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from dgc_topo.compression.selection import layer_count
from dgc_topo.payload.wire import ENTRY_BYTES
from dgc_topo.sizes import FLOAT_BYTES, is_compressed


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
