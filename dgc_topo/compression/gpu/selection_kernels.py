"""Kernels of radix select: exactly the largest of each group's candidates, in ascending order.

The bits of non-negative floats, read as integers, have the order of the floats.  The limit (the
smallest magnitude to keep) is found digit by digit from the top: a histogram over the candidates
that share the known digits gives the next one.  Of candidates equal to the limit the first ones
are kept, so that all devices choose the same.  A program handles one chunk of one group's list.
Blocks join a list in the order in which they finish; within a block the order is ascending.
"""

from __future__ import annotations

import triton
import triton.language as tl

from dgc_topo.compression import threshold

DIGITS = 4  #: of a key: 8, 8, 8 and 7 bits
VALUES = tl.constexpr(256)  #: of a digit
_LEAST_WIDTH, _MOST_WIDTH = tl.constexpr(threshold.LEAST_WIDTH), tl.constexpr(threshold.MOST_WIDTH)
_SHRINKS, _GROWS = tl.constexpr(threshold.SHRINKS), tl.constexpr(threshold.GROWS)
_FOLDS, _FOUND = tl.constexpr(threshold.FOLDS), tl.constexpr(threshold.FOUND)
NOBODY = tl.constexpr(0x7FFFFFFF)  #: a limit above the key of every number


@triton.jit
def _descend(histogram, wanted, values: tl.constexpr):
    """Return the digit of the *wanted*-th largest key, and how many keys with it are wanted."""
    digits = tl.arange(0, values)
    counts = tl.load(histogram + digits).to(tl.int64)
    at_least = tl.cumsum(counts, axis=0, reverse=True)
    digit = tl.sum((at_least >= wanted).to(tl.int32), axis=0) - 1
    above = tl.sum(tl.where(digits > digit, counts, 0), axis=0)
    return digit, wanted - above.to(tl.int32)


@triton.jit
def _first_digits(
    histogram,  # of one group
    want,
    digits: tl.constexpr,
    values: tl.constexpr,
):
    """Return the limit's first digits, and how many keys that begin with them are wanted."""
    known = want * 0
    for digit in tl.static_range(digits):
        if want > 0:
            value, want = _descend(histogram + digit * values, want, values)
            known = (known << 8) | value
            want = tl.where(value < 0, 0, want)  # all that are not zero are wanted
    return known, want


@triton.jit
def count_everywhere(  # noqa: PLR0913, PLR0917 - one argument per buffer
    span_group,  # int32: which group a span of the residual is of
    span_first,  # int64: its first element in that group
    group_begin,  # int64: where each group begins, and where the last one ends
    wanted,  # int32, by group: number of elements to send; 0 if the group is not searched
    residual,
    histograms,
    digit: tl.constexpr,
    digits: tl.constexpr,
    values: tl.constexpr,
    chunk: tl.constexpr,
    chunks: tl.constexpr,  # of a span
):
    """Count digits of the magnitudes of the groups; zeros, which are never sent, do not count."""
    group = tl.load(span_group + tl.program_id(0)).to(tl.int64)
    want = tl.load(wanted + group)
    histogram = histograms + group * digits * values
    known, want = _first_digits(histogram, want, digit, values)
    if want > 0:
        lanes = tl.arange(0, values)
        counts = tl.zeros([values], tl.int32)
        begin = tl.load(group_begin + group)
        at = begin + tl.load(span_first + tl.program_id(0))
        end = tl.minimum(at + chunk * chunks, tl.load(group_begin + group + 1))
        while at < end:
            inside = at + tl.arange(0, chunk)
            v = tl.load(residual + inside, mask=inside < end, other=0.0)
            key = v.to(tl.int32, bitcast=True) & 0x7FFFFFFF
            agrees = key > 0
            if digit > 0:
                agrees = agrees & ((key >> (31 - 8 * digit)) == known)
            num_others = chunk - tl.sum(agrees.to(tl.int32), axis=0)
            if num_others < chunk:
                place = (key >> (23 - 8 * digit)) & (values - 1)
                counts += tl.histogram(tl.where(agrees, place, 0), values)
                counts -= tl.where(lanes == 0, num_others, 0)
            at += chunk
        tl.atomic_add(histogram + digit * values + lanes, counts, mask=counts > 0, sem="relaxed")


@triton.jit
def write_thresholds(
    wanted,  # as above
    histograms,  # with the first digits
    thresholds,  # float32, by group: at least *wanted* elements exceed it; infinity for 0
    known: tl.constexpr,  # digits
    digits: tl.constexpr,
    values: tl.constexpr,
):
    """Write the largest number below all those that begin with the limit's first digits."""
    group = tl.program_id(0).to(tl.int64)
    want = tl.load(wanted + group)
    searched = want > 0
    limit, want = _first_digits(histograms + group * digits * values, want, known, values)
    limit = tl.where(want > 0, limit << (31 - 8 * known), 0)
    below = tl.maximum(limit - 1, 0).to(tl.float32, bitcast=True)
    tl.store(thresholds + group, tl.where(searched, below, float("inf")))


@triton.jit
def count_digits(  # noqa: PLR0913, PLR0917 - one argument per buffer
    chunk_group,  # int32: which group's list a chunk is of
    chunk_begin,  # int64: its first place in that list
    list_begin,  # int64: where each group's list begins, and where the last one ends
    found,  # int64, by group: candidates
    wanted,  # int32, by group: how many to keep
    keys,  # int32
    histograms,  # int32, by group and digit
    digit: tl.constexpr,  # from 0, the top one
    digits: tl.constexpr,
    values: tl.constexpr,
    chunk: tl.constexpr,
):
    """Count the values of one digit among the keys that agree with the limit's digits above it."""
    group = tl.load(chunk_group + tl.program_id(0)).to(tl.int64)
    first = tl.load(chunk_begin + tl.program_id(0))
    total = tl.load(found + group)
    begin = tl.load(list_begin + group)
    if (first < total) & (total <= tl.load(list_begin + group + 1) - begin):
        want = tl.minimum(total, tl.load(wanted + group).to(tl.int64)).to(tl.int32)
        at = first + tl.arange(0, chunk)
        agrees = at < total
        key = tl.load(keys + begin + at, mask=agrees, other=0)
        histogram = histograms + group * digits * values
        shift: tl.constexpr = 23
        for above in tl.static_range(digit):
            known, want = _descend(histogram + above * values, want, values)
            agrees = agrees & ((key >> (shift - 8 * above)) == known)
            key = key & ((1 << (shift - 8 * above)) - 1)
        place = key >> (shift - 8 * digit if digit < digits - 1 else 0)
        counts = tl.histogram(tl.where(agrees, place, 0), values)
        lanes = tl.arange(0, values)
        others = chunk - tl.sum(agrees.to(tl.int32), axis=0)
        counts = counts - tl.where(lanes == 0, others, 0)
        tl.atomic_add(histogram + digit * values + lanes, counts, mask=counts > 0, sem="relaxed")


@triton.jit
def count_kept(  # noqa: PLR0913, PLR0915, PLR0917 - one argument per buffer
    chunk_group,
    chunk_begin,
    list_begin,
    found,
    wanted,
    keys,
    places,  # int64: of the candidates, as the kernel `accumulate` says
    histograms,  # with all digits
    block_kept,  # int64, by block: candidates above the limit, times 2**32, plus those equal to it
    limits,  # int32, by group: key of the smallest that is kept
    rooms,  # int32, by group: how many equal to it are kept
    outcome,  # int64: groups that have to be searched again, and number kept of all groups
    missed,  # int32, by group: 1 where too few passed and more might, or too many to be listed
    smallest,  # float32, by group: last step's, and then this one's; 0 where too few passed
    slack,  # float32, by group, as in `Tail`, like the next two: last step's, and then this one's
    aim,
    width,
    digits: tl.constexpr,
    values: tl.constexpr,
    spare: tl.constexpr,  # as in `Goal`, like the next three
    root: tl.constexpr,
    least_aim: tl.constexpr,
    most_aim: tl.constexpr,
    chunk: tl.constexpr,
    block: tl.constexpr,
):
    """Find the group's limit; count by block what it keeps; learn the next threshold."""
    group = tl.load(chunk_group + tl.program_id(0)).to(tl.int64)
    first = tl.load(chunk_begin + tl.program_id(0))
    total = tl.load(found + group)
    begin = tl.load(list_begin + group)
    overflows = total > tl.load(list_begin + group + 1) - begin
    count = tl.load(wanted + group)
    kept = tl.minimum(total, count.to(tl.int64)).to(tl.int32)
    limit = NOBODY + 0 * kept
    room = 0 * kept
    kept = tl.where(overflows, 0, kept)
    if kept > 0:
        limit, room = 0 * kept, kept
        histogram = histograms + group * digits * values
        for digit in tl.static_range(digits):
            known, room = _descend(histogram + digit * values, room, values)
            limit = (limit << (8 if digit < digits - 1 else 7)) | known
        at = first + tl.arange(0, chunk)
        inside = at < total
        key = tl.load(keys + begin + at, mask=inside, other=-1)
        place = tl.load(places + begin + at, mask=inside, other=0)
        one = tl.where(key > limit, 1 << 32, 1).to(tl.int64)
        tl.atomic_add(block_kept + place // block, one, mask=inside & (key >= limit), sem="relaxed")
    if first == 0:
        tl.store(limits + group, limit)
        tl.store(rooms + group, room)
        before, loose = tl.load(smallest + group), tl.load(slack + group)
        short = (total < count) & (before * loose > 0)
        misses = (short | overflows).to(tl.int32)
        tl.store(missed + group, misses)
        tl.atomic_add(outcome, misses.to(tl.int64), sem="relaxed")
        tl.atomic_add(outcome + 1, kept.to(tl.int64), sem="relaxed")
        if misses == 0:  # other groups are learned from on the host, which has their old values
            now = limit.to(tl.float32, bitcast=True)
            now = tl.where((kept == count) & (count > 0), now, 0.0)
            tl.store(smallest + group, now)
            if now > 0:
                sent = count.to(tl.float32)
                target = tl.load(aim + group) * _FOUND
                target = tl.minimum(tl.maximum(target, least_aim), most_aim)
                tl.store(aim + group, target)
                wide = _width(tl.load(width + group), before * loose, now, total / sent)
                tl.store(width + group, wide)
                growth = tl.minimum(tl.maximum(2 - before / now, _SHRINKS), _GROWS)
                growth = tl.where(before * loose > 0, growth, 1.0)
                folds = tl.log(target + (spare + root * tl.sqrt(sent)) / sent)
                tl.store(slack + group, growth * tl.exp(-wide * folds))


@triton.jit
def _width(width, threshold, smallest, ratio):
    """Return the width of the tail, as `Tail.learn`."""
    folds = tl.log(ratio)
    measured = tl.log(smallest / threshold) / folds
    measured = tl.minimum(tl.maximum(measured, _LEAST_WIDTH), _MOST_WIDTH)
    steep = (threshold > 0) & (folds > _FOLDS)
    return tl.where(steep, (width + measured) / 2, width)


@triton.jit
def place_kept(  # noqa: PLR0913, PLR0915, PLR0917 - one argument per buffer
    chunk_group,
    chunk_begin,
    list_begin,
    found,
    keys,
    places,
    limits,
    rooms,
    block_first,  # int64: where in its group's list a block's candidates begin
    block_kept,
    block_sums,  # int64: cumulative sum of block_kept
    block_flat,  # int64: first element of a block in the flat buffer
    group_block,  # int64: first block of each group
    indices,  # int64: what is kept, ascending
    chunk: tl.constexpr,
    block: tl.constexpr,
):
    """Write the indices of what is kept to where they belong."""
    group = tl.load(chunk_group + tl.program_id(0)).to(tl.int64)
    first = tl.load(chunk_begin + tl.program_id(0))
    total = tl.load(found + group)
    begin = tl.load(list_begin + group)
    if (first < total) & (total <= tl.load(list_begin + group + 1) - begin):
        limit, room = tl.load(limits + group), tl.load(rooms + group).to(tl.int64)
        at = first + tl.arange(0, chunk)
        inside = at < total
        key = tl.load(keys + begin + at, mask=inside, other=-1)
        inside = inside & (key >= limit)
        place = tl.load(places + begin + at, mask=inside, other=0)
        number = place // block
        start = tl.load(group_block + group)
        earlier = tl.load(block_sums + start - 1, mask=start > 0, other=0)
        sums = tl.load(block_sums + number, mask=inside, other=0)
        sums = sums - tl.load(block_kept + number, mask=inside, other=0) - earlier
        above, tied = sums >> 32, sums & 0xFFFFFFFF
        # A block's candidates lie side by side in the list: look back to the first of them.
        back = tl.where(inside, at - tl.load(block_first + number, mask=inside, other=0), 0)
        step = begin * 0
        last = tl.max(back, axis=0)
        while step < last:
            there = step < back
            other = tl.load(keys + begin + at - 1 - step, mask=there, other=-1)
            above += (there & (other > limit)).to(tl.int64)
            tied += (there & (other == limit)).to(tl.int64)
            step += 1
        offset = earlier >> 32
        before = group * 0
        while before < group:
            lanes = before + tl.arange(0, chunk)
            offset += tl.sum(tl.load(rooms + lanes, mask=lanes < group, other=0), axis=0)
            before += chunk
        keep = inside & ((key > limit) | (tied < room))
        flat = tl.load(block_flat + number, mask=keep, other=0) + place % block
        tl.store(indices + offset + above + tl.minimum(tied, room), flat, mask=keep)
