"""The wire format of sparse entries.

A message for n entries of a run of elements is 8n bytes: n int32 indices relative to the run's
first element, strictly ascending, then the n float32 values, both in native (little-endian) byte
order.  The number of entries follows from the message's length.
"""

from __future__ import annotations

import torch
from torch import Tensor

ENTRY_BYTES = 8  #: int32 index + float32 value
MAX_RUN = 2**31  #: longest run whose relative indices fit an int32


def encode(indices: Tensor, values: Tensor, start: int, length: int) -> Tensor:
    """Return the message for entries of the elements ``start .. start + length - 1``.

    Args:
        indices: Shape (n,), int64, strictly ascending, inside the run.
        values: Shape (n,), float32.
        start: The run's first element.
        length: Elements in the run.

    Returns:
        Shape (8n,), uint8, on the device of *indices*.

    Raises:
        ValueError: if the run is too long for int32 indices.
    """
    check_run(length)
    count = len(indices)
    message = torch.empty(ENTRY_BYTES * count, dtype=torch.uint8, device=indices.device)
    message[: 4 * count].view(torch.int32).copy_(indices - start if start else indices)
    message[4 * count :].view(torch.float32).copy_(values)
    return message


def decode(message: Tensor, start: int, length: int) -> tuple[Tensor, Tensor]:
    """Return the entries in a message for the elements ``start .. start + length - 1``.

    Returns:
        Indices, shape (n,), int64, strictly ascending inside the run; and their values, shape
        (n,), float32: a view of *message*.

    Raises:
        ValueError: if the message cannot be one for this run: its length is not a number of
            entries, there are more entries than elements, or an index is out of range or order.
    """
    check_run(length)
    count, rest = divmod(message.numel(), ENTRY_BYTES)
    if rest or count > length:
        raise ValueError(
            f"wire: sparse message of {message.numel()} bytes, expected a multiple of "
            f"{ENTRY_BYTES} and at most {length} entries"
        )
    relative = message[: 4 * count].view(torch.int32)
    values = message[4 * count :].view(torch.float32)
    # One comparison, so that a message on a GPU costs one synchronisation, not three.
    if count and not bool(
        (relative[0] >= 0) & (relative[-1] <= length - 1) & (relative[1:] > relative[:-1]).all()
    ):
        raise ValueError(
            f"wire: sparse message of {count} entries with an index out of range or order, "
            f"expected ascending indices from 0 to {length - 1}"
        )
    indices = relative.to(torch.int64)
    return (indices.add_(start) if start else indices), values


def check_run(length: int) -> None:
    """Refuse a run whose relative indices do not fit.

    Raises:
        ValueError: if *length* is above 2**31.
    """
    if length > MAX_RUN:
        raise ValueError(
            f"wire: run of {length} elements in one sparse message, expected at most {MAX_RUN}; "
            "use a topology that cuts the buffer into more chunks"
        )
