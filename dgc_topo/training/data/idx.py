"""The IDX file format of the MNIST family: a big-endian header, then unsigned bytes.

Header: two zero bytes, the type code (8 for unsigned bytes), the number of dimensions, then
each dimension as a 4-byte unsigned integer (LeCun, Cortes and Burges, "The MNIST database").
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from dgc_topo.training.data.files import DataError

_UNSIGNED_BYTE = 8
_MAGIC_BYTES = 4
_SIZE_BYTES = 4


def parse_idx(data: bytes, num_dims: int, where: str) -> Tensor:
    """Return the array that the IDX file content *data* holds.

    Args:
        data: The whole file, decompressed.
        num_dims: Dimensions it must have: 3 for grey images, 1 for labels.
        where: Name of the file, for error messages.

    Returns:
        uint8 tensor of *num_dims* dimensions, a copy of the bytes.

    Raises:
        DataError: if the file is cut short, is not IDX, holds another type or number of
            dimensions, or is not as long as its header says.
    """
    header = _MAGIC_BYTES + _SIZE_BYTES * num_dims
    magic = bytes([0, 0, _UNSIGNED_BYTE, num_dims])
    if data[:_MAGIC_BYTES] != magic:
        found = data[:_MAGIC_BYTES].hex(" ") or "an empty file"
        expected = f"expected {magic.hex(' ')} (IDX, unsigned bytes, {num_dims} dimensions)"
        raise DataError(f"{where}: starts with {found}, {expected}")
    if len(data) < header:
        raise DataError(f"{where}: ends within its header, {len(data)} bytes, expected {header}")
    shape = tuple(
        int.from_bytes(data[at : at + _SIZE_BYTES], "big")
        for at in range(_MAGIC_BYTES, header, _SIZE_BYTES)
    )
    if len(data) - header != math.prod(shape) or 0 in shape:
        sizes = " x ".join(map(str, shape))
        follow = f"{len(data) - header} bytes follow"
        raise DataError(f"{where}: header says {sizes}, {follow}, expected {math.prod(shape)}, > 0")
    array = np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape)
    return torch.from_numpy(array.copy())
