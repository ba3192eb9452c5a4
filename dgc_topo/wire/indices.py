"""How indices are written into a message and read from it, each way of coding them.

Indices come as *gaps*: how many elements without an entry lie before each entry, since the last
entry or the start of the run.  Gaps cannot be out of order, so of those only the sum needs a check.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dgc_topo.wire import bits
from dgc_topo.wire.coding import MAX_CODE
from dgc_topo.wire.format import WireError
from dgc_topo.wire.tensors import has_kernels

_PLANE_BITS = 16  #: wider gaps are a plane of their low 16 bits and one of the bits above


def gaps_of(indices: Tensor, start: int) -> Tensor:
    """Return the elements without an entry before each of *indices*, shape (n,), int64."""
    return torch.diff(indices, prepend=indices.new_full((1,), start - 1)).sub_(1)


def write_codes(gaps: Tensor, escapes: int, into: Tensor) -> None:
    """Write 16-bit run lengths; with *escapes*, code 65535 is one that no entry follows.

    Args:
        gaps: Shape (n,), int64.
        escapes: Their number.
        into: uint8; ``2 * (n + escapes)`` bytes, and the number of escapes if there are any.
    """
    if not escapes:
        into.view(torch.int16).copy_(gaps)  # the low 16 bits
        return
    before = torch.div(gaps, MAX_CODE, rounding_mode="floor").cumsum(0)
    places = before + torch.arange(len(gaps), dtype=torch.int64, device=gaps.device)
    codes = into[:-4].view(torch.int16)
    codes.fill_(-1)  # 65535
    codes[places] = (gaps % MAX_CODE).to(torch.int16)
    count = into[-4:].view(torch.int16)
    count[0], count[1] = _as_int16(escapes & MAX_CODE), _as_int16(escapes >> 16)


def read_codes(codes: Tensor, count: int, start: int, *, escaped: bool) -> Tensor:
    """Return the *count* indices of run lengths, shape (count,), int64.

    Args:
        codes: uint8, two for each code.
        count: Number of entries, at least 1.
        start: First element of the run.
        escaped: Whether code 65535 is one that no entry follows.

    Raises:
        WireError: if there are not so many entries, or the last code is an escape.
    """
    if escaped:
        return _read_escaped(codes, count, start)
    if has_kernels(codes):
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
        bits.pack(gaps, width, into)


def read_packed(packed: Tensor, count: int, width: int, start: int) -> Tensor:
    """Return *count* indices from gaps of *width* bits each, shape (count,), int64."""
    if not width:
        return torch.arange(start, start + count, dtype=torch.int64, device=packed.device)
    if has_kernels(packed):
        from dgc_topo.wire import on_gpu  # noqa: PLC0415 - needs Triton

        return on_gpu.read_gaps(packed, count, width, start)
    if width < _PLANE_BITS:
        return _after(bits.unpack(packed, count, width), start)
    plane = 2 * count
    gaps = packed[:plane].view(torch.uint16).to(torch.int64)
    if width > _PLANE_BITS:
        gaps += bits.unpack(packed[plane:], count, width - _PLANE_BITS) << _PLANE_BITS
    return _after(gaps, start)


def read_bitmap(plane: Tensor, count: int, start: int) -> Tensor:
    """Return the *count* indices whose bits are set, shape (count,), int64.

    Raises:
        WireError: if there are not so many.
    """
    found = bits.unpack_plane(plane)
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
