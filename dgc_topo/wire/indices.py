"""Indices of a message: bit-packed gaps between entries, run lengths, a bitmap, or int32.

Indices come as *gaps*: the number of elements without an entry before each entry, since the last
entry or the start of the run.  Gaps cannot be out of order, so only their sum needs a check.
Bit b of a packed sequence is bit ``b % 8`` (the lowest is 0) of byte ``b // 8``.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from dgc_topo.wire import packing, tensors
from dgc_topo.wire.format import WireError
from dgc_topo.wire.limits import MAX_CODE
from dgc_topo.wire.tensors import has_kernels

_EACH_BYTE = 0x0101010101010101
_OWN_BIT = -0x7FBFDFEFF7FBFDFF  # 0x8040201008040201: bit k of byte k, as a signed number
_GATHER = 0x0102040810204080  # times bytes of 0 or 1: their bits, side by side in the top byte


def pack_bits(numbers: Tensor, width: int, into: Tensor) -> None:
    """Pack *numbers*, eight of them into *width* bytes.

    Args:
        numbers: Shape (n,), int64, from 0 to ``2**width - 1``.
        width: Bits of each, 1 to 15.
        into: Shape (packed_bytes(n, width),), uint8; bits beyond the last number become 0.
    """
    if tensors.in_numpy(numbers):
        packing.pack(numbers.numpy(), width, into.numpy())
        return
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


def unpack_bits(packed: Tensor, count: int, width: int) -> Tensor:
    """Return the *count* numbers that `pack_bits` packed, shape (count,), int64."""
    if tensors.in_numpy(packed):
        return torch.from_numpy(packing.unpack(packed.numpy(), count, width))
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
    set_flags(flags, indices)
    pack_flags(flags, into)


def set_flags(flags: Tensor, places: Tensor) -> None:
    """Set *flags*, uint8, at *places*, shape (n,), int64, to 1."""
    if tensors.in_numpy(flags):
        flags.numpy()[places.numpy()] = 1  # in half the time
    else:
        flags.index_fill_(0, places, 1)


def pack_flags(flags: Tensor, into: Tensor) -> None:
    """Pack *flags*, uint8 zeros and ones, eight of them into each byte of *into*."""
    if tensors.in_numpy(flags):
        into.numpy()[:] = np.packbits(flags.numpy(), bitorder="little")
    else:
        into.copy_((flags.view(torch.int64) * _GATHER) >> 56)


def unpack_flags(plane: Tensor) -> Tensor:
    """Return the bits of *plane*, uint8, one after the other: uint8, 0 where one is not set."""
    if tensors.in_numpy(plane):
        return torch.from_numpy(np.unpackbits(plane.numpy(), bitorder="little"))
    spread = (plane.to(torch.int64) * _EACH_BYTE).bitwise_and_(_OWN_BIT)
    return spread.view(torch.uint8)


def set_places(flags: Tensor) -> Tensor:
    """Return the ascending places at which *flags*, uint8, are not 0, shape (n,), int64."""
    if tensors.in_numpy(flags):
        return torch.from_numpy(np.flatnonzero(flags.numpy().view(bool)))
    return flags.nonzero().view(-1)


@lru_cache(maxsize=64)
def _shifts(device: torch.device, width: int) -> Tensor:
    return torch.arange(4, dtype=torch.int64, device=device) * width


_PLANE_BITS = 16  #: wider gaps are a plane of their low 16 bits and one of the bits above


def gaps_of(indices: Tensor, start: int) -> Tensor:
    """Return the elements without an entry before each of *indices*, shape (n,), int64."""
    if tensors.in_numpy(indices):
        return torch.from_numpy(packing.gaps_of(indices.numpy(), start))
    return torch.diff(indices, prepend=indices.new_full((1,), start - 1)).sub_(1)


def write_codes(gaps: Tensor, escapes: int, into: Tensor) -> None:
    """Write 16-bit run lengths; with *escapes*, code 65535 is one that no entry follows.

    Args:
        gaps: Shape (n,), int64.
        escapes: Their number.
        into: uint8; ``2 * (n + escapes)`` bytes, and four more if it is to say the escapes.
    """
    if not escapes:
        into.view(torch.int16).copy_(gaps)  # the low 16 bits
        return
    before = torch.div(gaps, MAX_CODE, rounding_mode="floor").cumsum(0)
    places = before + torch.arange(len(gaps), dtype=torch.int64, device=gaps.device)
    end = 2 * (len(gaps) + escapes)
    codes = into[:end].view(torch.int16)
    codes.fill_(-1)  # 65535
    codes[places] = (gaps % MAX_CODE).to(torch.int16)
    if len(into) > end:
        count = into[end:].view(torch.int16)
        count[0], count[1] = _as_int16(escapes & MAX_CODE), _as_int16(escapes >> 16)


def read_codes(codes: Tensor, count: int, start: int, *, escaped: bool) -> Tensor:
    """Return the *count* indices of run lengths, shape (count,), int64.

    Args:
        codes: uint8, two for each code.
        count: Number of entries, at least 1.
        start: First element of the run.
        escaped: True if code 65535 is one that no entry follows.

    Raises:
        WireError: if there are not so many entries, or the last code is an escape.
    """
    if escaped:
        return _read_escaped(codes, count, start)
    if has_kernels(codes.device):
        return read_packed(codes, count, _PLANE_BITS, start)  # these are the same bytes
    return _after(codes.view(torch.uint16).to(torch.int64), start)


def _read_escaped(codes: Tensor, count: int, start: int) -> Tensor:
    steps = codes.view(torch.uint16).to(torch.int64)
    ends = steps != MAX_CODE
    indices = (steps + ends).cumsum_(0)[ends] + (start - 1)
    if len(indices) != count or not bool(ends[-1]):
        raise WireError(
            f"wire: {len(indices)} run lengths among {len(steps)} codes, or an escape code last, "
            f"expected {count} run lengths, and one of them last"
        )
    return indices


def write_packed(gaps: Tensor, width: int, into: Tensor) -> None:
    """Write gaps of *width* bits each, 0 to 31, into ``ceil(n * width / 8)`` bytes."""
    if width >= _PLANE_BITS:
        plane = 2 * len(gaps)
        into[:plane].view(torch.int16).copy_(gaps)
        gaps, width, into = gaps >> _PLANE_BITS, width - _PLANE_BITS, into[plane:]
    if width:
        pack_bits(gaps, width, into)


def read_packed(packed: Tensor, count: int, width: int, start: int) -> Tensor:
    """Return *count* indices from gaps of *width* bits each, shape (count,), int64."""
    if not width:
        return torch.arange(start, start + count, dtype=torch.int64, device=packed.device)
    if has_kernels(packed.device):
        from dgc_topo.wire import on_gpu  # noqa: PLC0415 - needs Triton

        return on_gpu.read_gaps(packed, count, width, start)
    return _after(read_numbers(packed, count, width), start)


def read_numbers(packed: Tensor, count: int, width: int) -> Tensor:
    """Return *count* numbers of *width* bits each, 1 to 31, shape (count,), int64."""
    if width < _PLANE_BITS:
        return unpack_bits(packed, count, width)
    plane = 2 * count
    numbers = packed[:plane].view(torch.uint16).to(torch.int64)
    if width > _PLANE_BITS:
        numbers += unpack_bits(packed[plane:], count, width - _PLANE_BITS) << _PLANE_BITS
    return numbers


def read_bitmap(plane: Tensor, count: int, start: int) -> Tensor:
    """Return the *count* indices whose bits are set, shape (count,), int64.

    Raises:
        WireError: if there are not so many.
    """
    found = set_places(unpack_flags(plane))
    if len(found) != count:
        raise WireError(
            f"wire: bitmap with {len(found)} bits set, expected {count}: one for each value"
        )
    return found.add_(start) if start else found


def read_int32(coded: Tensor, start: int, length: int) -> Tensor:
    """Return the indices whose distances from *start* are listed, shape (n,), int64.

    Raises:
        WireError: if they are not strictly ascending from 0 to length - 1.
    """
    relative = coded.view(torch.int32)
    # One comparison, so that a message on a GPU costs one synchronisation, not three.
    fits = (relative[0] >= 0) & (relative[-1] <= length - 1) & (relative[1:] > relative[:-1]).all()
    if not bool(fits):
        raise WireError(
            f"wire: int32 message of {len(relative)} entries with an index out of range or order, "
            f"expected ascending indices from 0 to {length - 1}"
        )
    found = relative.to(torch.int64)
    return found.add_(start) if start else found


def check_last(encoding: str, last: int, length: int) -> None:
    """Refuse gaps that lead too far; they cannot be negative, so the last index says it all.

    Raises:
        WireError: unless the *last* index is below *length*.
    """
    if last >= length:
        raise WireError(
            f"wire: {encoding} message whose last index is {last}, expected below {length}"
        )


def _after(gaps: Tensor, start: int) -> Tensor:
    """Return the indices that follow *gaps*, which it overwrites."""
    return gaps.add_(1).cumsum_(0).add_(start - 1)


def _as_int16(number: int) -> int:
    return number - 2**16 if number >= 2**15 else number
