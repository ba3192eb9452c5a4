"""Values of 8, 4 or 2 bits: a sign, and steps above the smallest magnitude of a section.

A section is a part of a run whose entries share a scale, such as a layer.  Its magnitudes are
``low + step * code``, both numbers bfloat16, the code from 0 to ``2**(bits - 1) - 1``.  Selected
values lie above a threshold, so a scale that begins there is finer than one that begins at 0.

Everything that decides a scale is a minimum, a maximum or a sum of integers: ranks that hold the
same entries round them to the same bits, whatever the device and the number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from dgc_topo.wire.coding import COARSE_DTYPES, VALUE_BITS, WireDtype

#: Largest relative L2 error of a section; one that would lose more takes the next wider values.
MOST_ERROR = 0.25

_FLOAT32_MAX = torch.finfo(torch.float32).max
_FIXED = 2**15 - 1  #: of a section's largest magnitude: squares of all elements fit an int64
_ROUNDS = 3  #: of Lloyd's algorithm, which finds two magnitudes
_FINEST = 2.0**-20  #: of a magnitude: steps less than a few roundings apart could not be told apart


MOST_LEVEL = 127  #: of the widest type


class Scales(NamedTuple):
    """Scales of the sections of a run.

    Attributes:
        bounds: Elements at which a section but the first begins, ascending, inside the run.
        low: Smallest magnitudes, shape (len(bounds) + 1,), float32 that bfloat16 can hold.
        step: Differences between magnitudes, likewise.
    """

    bounds: tuple[int, ...]
    low: Tensor
    step: Tensor


def no_scales(bounds: tuple[int, ...], device: torch.device) -> Scales:
    """Return the scales of sections without entries."""
    nothing = torch.zeros(len(bounds) + 1, dtype=torch.float32, device=device)
    return Scales(bounds, nothing, nothing)


def sections_of(indices: Tensor, bounds: Sequence[int]) -> Tensor:
    """Return the number of the section of each of *indices*, shape (n,), int64."""
    if not bounds:
        return torch.zeros_like(indices)
    return torch.searchsorted(_bounds(tuple(bounds), indices.device), indices, right=True)


def rounded(
    indices: Tensor, values: Tensor, bounds: Sequence[int], wire_dtype: WireDtype
) -> tuple[Tensor, Scales]:
    """Return values as messages can hold them, and their scales.

    A section whose relative L2 error would exceed `MOST_ERROR` takes the next wider type.  If one
    of its values is not finite, all of it becomes NaN, so that every rank sees it.

    Args:
        indices: Shape (n,), int64, strictly ascending.
        values: Shape (n,), float32.
        bounds: Elements at which a section but the first begins.
        wire_dtype: ``int8``, ``int4`` or ``int2``.
    """
    sections, count = sections_of(indices, bounds), len(bounds) + 1
    magnitudes = values.abs()
    most = _extremes(magnitudes, sections, count, "amax", 0.0)
    least = torch.minimum(_extremes(magnitudes, sections, count, "amin", torch.inf), most)
    fixed = _fixed(magnitudes, most, sections)
    bound = _sums(fixed * fixed, sections, count).to(torch.float64) * MOST_ERROR**2
    low, step = torch.zeros_like(most), torch.zeros_like(most)
    codes = torch.zeros_like(most)
    misses = torch.ones_like(most, dtype=torch.bool)
    for wider in COARSE_DTYPES[COARSE_DTYPES.index(wire_dtype) :]:
        most_code = _most_code(wider)
        found = _two_scales(fixed, sections, most) if most_code == 1 else None
        new_low, new_step = found or _even_scales(least, most, most_code)
        low, step = torch.where(misses, new_low, low), torch.where(misses, new_step, step)
        codes = codes.masked_fill(misses, most_code)
        scales = Scales(tuple(bounds), low, step)
        levels = levels_of(values, scales, sections, codes[sections])
        on_scale = values_of(levels, values.signbit(), scales, sections)
        missed = _fixed(on_scale.abs(), most, sections).sub_(fixed).square_()
        misses = _sums(missed, sections, count).to(torch.float64) > bound
        if wider == COARSE_DTYPES[-1] or not bool(misses.any()):
            break
    return on_scale, scales


def levels_of(values: Tensor, scales: Scales, sections: Tensor, most: Tensor | int) -> Tensor:
    """Return the numbers of steps nearest to values, shape (n,), int64, from 0 to *most*."""
    step = scales.step[sections]
    levels = ((values.abs() - scales.low[sections]) / step).round_()
    levels = torch.where(step > 0, levels, 0.0).nan_to_num_(0.0, 0.0, 0.0)
    limit = torch.as_tensor(most, dtype=levels.dtype, device=levels.device)
    return torch.minimum(levels.clamp_(0), limit).to(torch.int64)


def values_of(levels: Tensor, negative: Tensor, scales: Scales, sections: Tensor) -> Tensor:
    """Return the values at so many steps, shape (n,), float32."""
    sizes = scales.low[sections] + levels.to(torch.float32) * scales.step[sections]
    return torch.where(negative, -sizes, sizes).clamp_(-_FLOAT32_MAX, _FLOAT32_MAX)


def narrowest(levels: Tensor, wire_dtype: WireDtype) -> WireDtype:
    """Return the narrowest type that holds all *levels*, *wire_dtype* or a wider one."""
    most = int(levels.max()) if len(levels) else 0
    wider = COARSE_DTYPES[COARSE_DTYPES.index(wire_dtype) :]
    return next(dtype for dtype in wider if most <= _most_code(dtype))


def pack_values(levels: Tensor, negative: Tensor, wire_dtype: WireDtype) -> Tensor:
    """Return values as bytes, the first in the low bits of the first byte, its sign on top."""
    bits = VALUE_BITS[wire_dtype]
    codes = levels.to(torch.uint8) | negative.to(torch.uint8) << bits - 1
    per_byte = 8 // bits
    if len(codes) % per_byte:
        codes = torch.cat([codes, codes.new_zeros(-len(codes) % per_byte)])
    packed = codes[::per_byte].clone()
    for place in range(1, per_byte):
        packed |= codes[place::per_byte] << place * bits
    return packed


def unpack_values(packed: Tensor, count: int, wire_dtype: WireDtype) -> tuple[Tensor, Tensor]:
    """Return levels, shape (count,), uint8, and whether each value is negative."""
    bits = VALUE_BITS[wire_dtype]
    per_byte = 8 // bits
    codes = torch.empty(len(packed), per_byte, dtype=torch.uint8, device=packed.device)
    for place in range(per_byte):
        codes[:, place] = packed >> place * bits
    flat = codes.view(-1)[:count]
    return flat & _most_code(wire_dtype), (flat >> bits - 1 & 1).to(torch.bool)


def _most_code(wire_dtype: WireDtype) -> int:
    return (1 << VALUE_BITS[wire_dtype] - 1) - 1


def _even_scales(least: Tensor, most: Tensor, most_code: int) -> tuple[Tensor, Tensor]:
    """Return scales whose magnitudes lie evenly from the least to the largest or beyond."""
    low = (least.view(torch.int32) & -(2**16)).view(torch.float32)  # rounded down to 16 bits
    exact = (most - low) / most_code
    step = (exact.view(torch.int32) + (2**16 - 1) & -(2**16)).view(torch.float32)  # and up
    return _finite(low, torch.where(step > 0, torch.maximum(step, low * _FINEST), step), most)


def _two_scales(fixed: Tensor, sections: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two magnitudes that miss least, by Lloyd's algorithm on whole numbers."""
    count = len(most)
    num, total = _sums(torch.ones_like(fixed), sections, count), _sums(fixed, sections, count)
    middle = total / num.clamp(1)
    low = high = middle
    for _ in range(_ROUNDS):
        above = (fixed > middle[sections]).to(torch.int64)
        num_above, total_above = (
            _sums(above, sections, count),
            _sums(fixed * above, sections, count),
        )
        low = (total - total_above) / (num - num_above).clamp(1)
        high = torch.where(num_above > 0, total_above / num_above.clamp(1), low)
        middle = (low + high) / 2
    unit = most.to(torch.float64) / _FIXED
    first = (low * unit).to(torch.bfloat16).to(torch.float32)
    step = ((high * unit).to(torch.float32) - first).clamp_(0).to(torch.bfloat16)
    return _finite(first, step.to(torch.float32), most)


def _finite(low: Tensor, step: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
    """Return scales that are NaN where a section has a value that is not finite."""
    return torch.where(most.isfinite(), low, torch.nan), step


def _fixed(magnitudes: Tensor, most: Tensor, sections: Tensor) -> Tensor:
    """Return magnitudes as whole parts of the largest of their section, int64."""
    shares = (magnitudes / most[sections]).nan_to_num_(0.0, 0.0, 0.0).clamp_(max=2.0)
    return shares.mul_(_FIXED).round_().to(torch.int64)


def _extremes(magnitudes: Tensor, sections: Tensor, count: int, which: str, first: float) -> Tensor:
    found = torch.full((count,), first, dtype=torch.float32, device=magnitudes.device)
    return found.scatter_reduce_(0, sections, magnitudes, which)


def _sums(numbers: Tensor, sections: Tensor, count: int) -> Tensor:
    """Return the sum of whole numbers in each section, exact whatever the order."""
    found = torch.zeros(count, dtype=torch.int64, device=numbers.device)
    return found.index_add_(0, sections, numbers)


@lru_cache(maxsize=256)
def _bounds(bounds: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(bounds, dtype=torch.int64, device=device)
