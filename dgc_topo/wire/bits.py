"""Unsigned numbers of a few bits each, packed without gaps; and planes of single bits.

Bit b of a packed sequence is bit ``b % 8`` (the lowest is 0) of byte ``b // 8``.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

MAX_WIDTH = 15  #: four numbers have to fit one int64

_EACH_BYTE = 0x0101010101010101
_OWN_BIT = -0x7FBFDFEFF7FBFDFF  # 0x8040201008040201: bit k of byte k, as a signed number
_GATHER = 0x0102040810204080  # times bytes of 0 or 1: their bits, side by side in the top byte


def packed_bytes(count: int, width: int) -> int:
    """Return the bytes of *count* numbers of *width* bits."""
    return -(-count * width // 8)


def pack(numbers: Tensor, width: int, into: Tensor) -> None:
    """Pack *numbers*, eight of them into *width* bytes.

    Args:
        numbers: Shape (n,), int64, from 0 to ``2**width - 1``.
        width: Bits of each, 1 to 15.
        into: Shape (packed_bytes(n, width),), uint8; bits beyond the last number become 0.
    """
    count = len(numbers)
    groups = -(-count // 8)
    if count % 8:
        padded = numbers.new_zeros(8 * groups)
        padded[:count] = numbers
        numbers = padded
    fours = numbers.view(2 * groups, 4) << _shifts(numbers.device, width)
    halves = fours.sum(1).view(groups, 2)
    low, high = halves[:, 0], halves[:, 1]
    whole = torch.stack([low | high << 4 * width, high >> 64 - 4 * width], 1)
    packed = whole.view(torch.uint8)[:, :width]
    if count % 8:
        into.copy_(packed.reshape(-1)[: len(into)])
    else:
        into.view(groups, width).copy_(packed)


def unpack(packed: Tensor, count: int, width: int) -> Tensor:
    """Return the *count* numbers that `pack` packed, shape (count,), int64."""
    groups = -(-count // 8)
    if count % 8:
        padded = packed.new_zeros(groups * width)
        padded[: len(packed)] = packed
        packed = padded
    whole = packed.new_zeros(groups, 16)
    whole[:, :width] = packed.view(groups, width)
    low, high = whole.view(torch.int64).unbind(1)
    # The shift to the right drags the sign along; what of it is not masked comes from high anyway.
    second = (low >> 4 * width) & ((1 << 64 - 4 * width) - 1) | high << 64 - 4 * width
    halves = torch.stack([low, second], 1).unsqueeze(2)
    numbers = (halves >> _shifts(packed.device, width)) & ((1 << width) - 1)
    return numbers.view(-1)[:count]


def pack_plane(indices: Tensor, into: Tensor) -> None:
    """Set the bits at *indices*, shape (n,), int64, of *into*, uint8, and clear the others."""
    flags = torch.zeros(8 * len(into), dtype=torch.uint8, device=into.device)
    flags.index_fill_(0, indices, 1)
    into.copy_((flags.view(torch.int64) * _GATHER) >> 56)


def unpack_plane(plane: Tensor) -> Tensor:
    """Return the ascending indices of the bits set in *plane*, shape (n,), int64."""
    spread = (plane.to(torch.int64) * _EACH_BYTE).bitwise_and_(_OWN_BIT)
    return spread.view(torch.uint8).nonzero().view(-1)


@lru_cache(maxsize=64)
def _shifts(device: torch.device, width: int) -> Tensor:
    return torch.arange(4, dtype=torch.int64, device=device) * width
