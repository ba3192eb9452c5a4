"""Entries of tensors, sparse (COO) or dense, and tensors of entries."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from dgc_topo.payload import Entries


def entries_of(value: Tensor) -> Entries:
    """Return the entries of a tensor, by their places in the flat tensor.

    Args:
        value: Sparse COO, coalesced or not, with or without dense dimensions; or dense, whose
            entries are the elements other than 0.

    Raises:
        ValueError: if an entry of a sparse one lies outside its shape.
    """
    value = value.detach()
    if value.layout == torch.strided:
        flat = value.resolve_neg().reshape(-1).to(torch.float32)
        indices = flat.nonzero().view(-1)
        return Entries(indices, flat[indices])
    whole = value.coalesce()
    indices, values = whole.indices(), whole.values()
    shape = value.shape[: value.sparse_dim()]
    places = torch.zeros(indices.shape[1], dtype=torch.int64, device=value.device)
    for axis, (row, size) in enumerate(zip(indices, shape, strict=True)):
        if len(row) and not (row.amin() >= 0 and row.amax() < size):
            raise ValueError(
                f"sparse tensor of shape {tuple(value.shape)}: axis {axis} has indices "
                f"{int(row.amin())} to {int(row.amax())}, expected 0 to {size - 1}"
            )
        places = places * size + row
    block = prod(value.shape[value.sparse_dim() :])
    inside = torch.arange(block, dtype=torch.int64, device=value.device)
    places = (places[:, None] * block + inside).reshape(-1)
    return Entries(places, values.reshape(-1).to(torch.float32))


@torch.no_grad()
def write_entries(total: Entries, value: Tensor) -> None:
    """Replace what a tensor holds by entries; a sparse one is coalesced afterwards.

    Args:
        total: By their places in the flat tensor.
        value: As for `entries_of`.
    """
    if value.layout == torch.strided:
        flat = torch.zeros(value.numel(), dtype=torch.float32, device=value.device)
        flat[total.indices] = total.values
        value.copy_(flat.view(value.shape))
        return
    sparse_shape, dense_shape = value.shape[: value.sparse_dim()], value.shape[value.sparse_dim() :]
    block = max(prod(dense_shape), 1)
    rows, values = total.indices, total.values[:, None]
    if block > 1:
        rows, row_of = torch.unique_consecutive(total.indices // block, return_inverse=True)
        values = torch.zeros(len(rows), block, dtype=torch.float32, device=value.device)
        values[row_of, total.indices % block] = total.values
    places = []
    for size in reversed(sparse_shape[1:]):
        places.append(rows % max(size, 1))
        rows = rows // max(size, 1)
    if sparse_shape:
        places.append(rows)
    indices = torch.stack(places[::-1]) if places else rows.new_zeros((0, len(rows)))
    made = torch.sparse_coo_tensor(
        indices,
        values.view(len(values), *dense_shape).to(value.dtype),
        value.shape,
        is_coalesced=True,
        check_invariants=False,  # said, because torch warns otherwise
    )
    value.copy_(made)
