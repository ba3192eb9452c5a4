"""Triton kernels that write messages and read them, with few launches.

Run lengths without escape codes are gaps of 16 bits, packed, so all kernels know only one layout:
values, then gaps of some width, of which a plane of low 16 bits comes first from 16 bits on.

Everything that counts bits, words or elements is int64.  Numbers that change from call to call are
typed and not specialised, nor is the alignment of what may begin anywhere: each kernel is compiled
once, or once for each type of values.
"""

from __future__ import annotations

import triton
import triton.language as tl

from dgc_topo.wire import checksum, limits

#: Gaps or words per program: few, so that a short message keeps more of a GPU busy; many, so that
#: programs do not queue up to add to the same sums.
BLOCK, LARGE_BLOCK = 256, 1024
FACTS = 11  #: numbers that `measure` and `write` share, all 0 before
LARGEST, ESCAPES, WIDTH = 0, 1, 6  #: which of them the host wants
ENDS = 16  #: bytes that `look` returns: of the header, and the last four
ANY, RUN_LENGTH, BIT_PACKED = 0, 1, 2  #: which encoding is wanted

_PRIME = tl.constexpr(checksum.PRIME)
_HALF = tl.constexpr(checksum.PRIME // 2)
_MAX_CODE = tl.constexpr(limits.MAX_CODE)
_HEADER_BYTES = tl.constexpr(limits.HEADER_BYTES)
_HEADER_WORDS = tl.constexpr(limits.HEADER_BYTES // 4)
_WORD_BITS = tl.constexpr(32)
_PLANE_BITS = tl.constexpr(16)
_LOW_BITS = tl.constexpr(0xFFFF)
_LARGEST, _ESCAPES = tl.constexpr(LARGEST), tl.constexpr(ESCAPES)
_SUMS = tl.constexpr(2)  # where facts have the sums of words
_WRITTEN, _MEASURED = tl.constexpr(4), tl.constexpr(5)  # how many programs are done
_WIDTH = tl.constexpr(WIDTH)
_PLAN = tl.constexpr(7)  # words of the body, first of the header, what both sums begin with
_ENDS = tl.constexpr(ENDS)
_ANY, _RUN_LENGTH = tl.constexpr(ANY), tl.constexpr(RUN_LENGTH)
_BIT_PACKED = tl.constexpr(BIT_PACKED)

_kernel = triton.jit(
    do_not_specialize=["count", "start", "size", "length", "width", "first"],
    do_not_specialize_on_alignment=["indices", "values", "message", "coded"],
)


@_kernel
def measure(  # noqa: PLR0913, PLR0917 - one argument per buffer and number
    indices,  # int64, shape (count,)
    facts,  # int64, shape (FACTS,): 0 becomes the largest gap, 1 the escape codes of all
    given,  # int64: if it is not *count*, there is nothing to be written; or None
    count: tl.int64,
    start: tl.int64,
    length: tl.int64,  # of the run
    first: tl.int64,  # the header's first word, encoding and parameter 0
    choice: tl.constexpr,  # encoding that is wanted
    value_bytes: tl.constexpr,
    block: tl.constexpr,
):
    """Measure the gaps, which decide the encoding; the last program plans the message."""
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    there = count
    if given is not None:
        there = tl.where(tl.load(given) == count, count, 0)
    inside = at < there
    index = tl.load(indices + at, mask=inside, other=0)
    before = tl.load(indices + at - 1, mask=inside & (at > 0), other=0)
    before = tl.where(at > 0, before, start - 1)
    gap = tl.where(inside, index - before - 1, 0)
    largest = tl.max(gap, axis=0)
    tl.atomic_max(facts + _LARGEST, largest)
    if largest >= _MAX_CODE:
        tl.atomic_add(facts + _ESCAPES, tl.sum(gap // _MAX_CODE, axis=0))

    # Who adds last sees what all others did before, for atomics acquire and release.
    done = tl.atomic_add(facts + _MEASURED, 1, sem="acq_rel")
    if done == tl.num_programs(0) - 1:
        largest = tl.atomic_max(facts + _LARGEST, 0, sem="acq_rel")
        escapes = tl.atomic_add(facts + _ESCAPES, 0, sem="acq_rel")
        escapes = tl.where(largest <= _MAX_CODE, 0, escapes)
        code, width, body = _planned(largest, escapes, count, length, choice, value_bytes)
        if given is not None:
            width = tl.where(there == count, width, -1)
        size = body + _HEADER_BYTES
        first = first | (code << 16) | (tl.where(code == _BIT_PACKED, width, 0) << 24)
        tl.store(facts + _WIDTH, width)
        tl.store(facts + _PLAN, (body + 3) // 4)
        tl.store(facts + _PLAN + 1, first)
        tl.store(facts + _PLAN + 2, first + length + size)
        tl.store(facts + _PLAN + 3, first + 2 * length + 3 * size)


@triton.jit
def _planned(largest, escapes, count, length, choice: tl.constexpr, value_bytes: tl.constexpr):
    """Return the code of the encoding, the bits of a gap, and the bytes of the body.

    By the arithmetic of `dgc_topo.wire.body.smallest`, Rice codes left out; what is not packed
    gaps has -1 bits.
    """
    bits = tl.sum((largest >> tl.arange(0, 32) > 0).to(tl.int64), axis=0)
    values = value_bytes * count
    packed = values + (count * bits + 7) // 8
    runs = values + 2 * (count + escapes) + tl.where(escapes > 0, 4, 0)
    if choice == _ANY:
        dense = value_bytes * length
        others = tl.minimum(values + (length + 7) // 8, values + (4 * count + 3 * values % 4))
        takes_runs = (runs < dense) & (runs <= packed) & (runs <= others)
        takes_packed = (packed < dense) & (packed < runs) & (packed <= others)
    else:
        takes_runs = largest >= 0 if choice == _RUN_LENGTH else largest < 0
        takes_packed = largest >= 0 if choice == _BIT_PACKED else largest < 0
    takes_runs = takes_runs & (escapes == 0)
    code = tl.where(takes_runs, _RUN_LENGTH, _BIT_PACKED).to(tl.int64)
    width = tl.where(takes_runs, 16, tl.where(takes_packed, bits, -1)).to(tl.int64)
    return code, width, tl.where(takes_runs, runs, packed)


@_kernel
def write(  # noqa: PLR0913, PLR0915, PLR0917 - one argument per buffer and number
    indices,  # int64, shape (count,)
    values,  # float32, shape (count,)
    message,  # uint8, 4-byte aligned: the header, and words enough for the body
    facts,  # as `measure` left them
    count: tl.int64,
    start: tl.int64,
    element: tl.constexpr,  # type of the values
    block: tl.constexpr,
):
    """Write a message as planned, a lane for each word of its body; the last program seals it.

    It may have more programs than the body has words for.
    """
    program = tl.program_id(0).to(tl.int64)
    at = program * block + tl.arange(0, block)
    width = tl.load(facts + _WIDTH)
    num_words = tl.where(width < 0, 0, tl.load(facts + _PLAN))
    if program * block < num_words:
        value_bits: tl.constexpr = 32 if element == tl.float32 else 16
        if element == tl.float32:
            value = tl.load(values + at, mask=at < count, other=0.0)
            word = value.to(tl.int32, bitcast=True).to(tl.int64)
        else:
            word = _rounded(values, 2 * at, count, element)
            word = word | (_rounded(values, 2 * at + 1, count, element) << 16)

        # Where this block's words reach the gaps; the first such may begin with the last value.
        bit = at * _WORD_BITS - count * value_bits
        if (width > 0) & ((program + 1) * block * _WORD_BITS > count * value_bits):
            low = tl.minimum(width, 16)
            word = word | _packed(indices, bit, count, start, low, 0)
            if width > _PLANE_BITS:
                high = width - _PLANE_BITS
                word = word | _packed(indices, bit - count * 16, count, start, high, 16)

        word = word.to(tl.int32)  # its low 32 bits; sums are of signed words
        words = message.to(tl.pointer_type(tl.int32))
        tl.store(words + _HEADER_WORDS + at, word, mask=at < num_words)
        _add_sums(facts + _SUMS, word.to(tl.int64), program * block + _HEADER_WORDS, block)

    done = tl.atomic_add(facts + _WRITTEN, 1, sem="acq_rel")  # as in `measure`
    if (done == tl.num_programs(0) - 1) & (width >= 0):
        plain = tl.atomic_add(facts + _SUMS, 0, sem="acq_rel")
        weighted = tl.atomic_add(facts + _SUMS + 1, 0, sem="acq_rel")
        words = message.to(tl.pointer_type(tl.int32))
        tl.store(words, tl.load(facts + _PLAN + 1).to(tl.int32))
        tl.store(words + 1, _remainder(plain + tl.load(facts + _PLAN + 2)).to(tl.int32))
        tl.store(words + 2, _remainder(weighted + tl.load(facts + _PLAN + 3)).to(tl.int32))


@triton.jit
def _rounded(values, at, count, element: tl.constexpr):
    """Return the 16 bits of each value that there is, as int64; 0 elsewhere."""
    value = tl.load(values + at, mask=at < count, other=0.0).to(element)
    return value.to(tl.int16, bitcast=True).to(tl.int64) & _LOW_BITS


@triton.jit
def _packed(indices, bit, count, start, width, shift: tl.constexpr):
    """Return 32 bits of packed gaps for each lane, as int64.

    Args:
        indices: Of all entries.
        bit: int64, shape (block,): the first of the 32, counted from where gaps begin; it may lie
            before, and beyond the last gap.
        count: Entries.
        start: The run's first element.
        width: Bits of each gap that are packed, 1 to 16.
        shift: Bits of each gap below those.
    """
    first = tl.maximum(bit, 0) // width  # the gap that the first bit belongs to
    known = (first > 0) & (first <= count)
    before = tl.load(indices + first - 1, mask=known, other=0)
    before = tl.where(first > 0, before, start - 1)
    word = tl.zeros_like(bit)
    most = (_WORD_BITS + width - 2) // width + 1  # gaps that touch 32 bits
    i = 0
    while i < most:
        here = first + i
        place = here * width - bit  # from -15, if the word before has a part of the gap
        fits = (here < count) & (place < _WORD_BITS)
        index = tl.load(indices + here, mask=fits, other=0)
        part = ((index - before - 1) >> shift) & _LOW_BITS
        part = (part << (tl.minimum(place, _WORD_BITS) + 15)) >> 15
        word = word | tl.where(fits, part, tl.zeros_like(part))
        before = index
        i += 1
    return word


@_kernel
def look(
    message,  # uint8, shape (size,), 4-byte aligned
    facts,  # int64, shape (2 + ENDS,): both sums, 0 before; then the bytes of header and end
    size: tl.int64,  # bytes, at least those of a header
    block: tl.constexpr,
):
    """Add up the whole words after a header, the first with factor 1; fetch header and end."""
    program = tl.program_id(0).to(tl.int64)
    at = program * block + tl.arange(0, block)
    words = message.to(tl.pointer_type(tl.int32)) + _HEADER_WORDS
    inside = at < (size - _HEADER_BYTES) // 4
    word = tl.load(words + at, mask=inside, other=0).to(tl.int64)
    _add_sums(facts, word, program * block, block)
    if program == 0:
        lanes = tl.arange(0, _ENDS).to(tl.int64)
        place = tl.where(lanes < _HEADER_BYTES, lanes, size - _ENDS + lanes)
        end = tl.load(message + place, mask=place < size, other=0)
        tl.store(facts + 2 + lanes, end.to(tl.int64), mask=lanes < _ENDS)


@_kernel
def read(
    coded,  # uint8, shape (size,)
    steps,  # int64, shape (count,)
    size: tl.int64,
    count: tl.int64,
    width: tl.int64,  # bits of a gap, 1 to 31
    start: tl.int64,
    block: tl.constexpr,
):
    """Write how far each index is from the one before it; the first from 0."""
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = at < count
    low = tl.minimum(width, 16)
    gap = _unpacked(coded, at * low, low, inside, size)
    if width > _PLANE_BITS:
        high = width - _PLANE_BITS
        gap = gap | (_unpacked(coded, count * 16 + at * high, high, inside, size) << 16)
    tl.store(steps + at, gap + tl.where(at > 0, 1, start), mask=inside)


@triton.jit
def _unpacked(coded, bit, width, inside, size):
    """Return the number of *width* bits, 1 to 16, that begins at each *bit*, as int64."""
    byte = bit >> 3
    # So many bits touch three bytes at most; a message's last word may be no whole one.
    found = tl.load(coded + byte, mask=inside & (byte < size), other=0).to(tl.int64)
    second = tl.load(coded + byte + 1, mask=inside & (byte + 1 < size), other=0).to(tl.int64)
    third = tl.load(coded + byte + 2, mask=inside & (byte + 2 < size), other=0).to(tl.int64)
    found = found | (second << 8) | (third << 16)
    return (found >> (bit & 7)) & ((1 << width) - 1)


@triton.jit
def _add_sums(sums, word, before, block: tl.constexpr):
    """Add words to both sums of a checksum.

    Args:
        sums: Two int64 numbers.
        word: int64, shape (block,), each of 32 bits with a sign.
        before: int64: the first word has factor ``before + 1``.
        block: Words.
    """
    plain = _near(tl.sum(word, axis=0))
    # At most 2**31 times the sum of 1 to block: below 2**51.
    inner = tl.sum(word * (tl.arange(0, block) + 1), axis=0)
    # Two remainders below 2**32 could have a product beyond int64; but plain is within 2**31.
    outer = before % _PRIME * plain
    tl.atomic_add(sums, plain)
    # Terms within 2**32 leave room for 2**30 programs; a message of 2**31 entries has 2**22.
    tl.atomic_add(sums + 1, _near(inner) + _near(outer))


@triton.jit
def _near(number):
    """Return *number* modulo the prime, from minus half of it to half of it."""
    rest = number % _PRIME  # has the sign of the number
    rest = tl.where(rest > _HALF, rest - _PRIME, rest)
    return tl.where(rest < -_HALF, rest + _PRIME, rest)


@triton.jit
def _remainder(number):
    """Return *number* modulo the prime, from 0."""
    rest = number % _PRIME  # has the sign of the number
    return tl.where(rest < 0, rest + _PRIME, rest)
