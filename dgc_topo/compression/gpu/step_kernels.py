"""Kernels that pass over a step's tensors; they read and write each byte once.

A program handles one block of one tensor.  All tensors share one launch: a table says where each
block's gradient lies.  All offsets are int64, because a buffer may exceed 2**31 elements.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def sum_squares(
    gradients,  # int64 addresses of the tensors
    block_tensor,  # int32: which tensor a block belongs to
    block_inside,  # int64: its first element in that tensor
    block_length,  # int32
    sums,  # float64, by block
    element: tl.constexpr,  # type of the gradients
    block: tl.constexpr,
):
    """Sum the squares of one block."""
    program = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, block)
    inside = lanes < tl.load(block_length + program)
    source = tl.load(gradients + tl.load(block_tensor + program)).to(tl.pointer_type(element))
    at = tl.load(block_inside + program) + lanes
    g = tl.load(source + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(sums + program, tl.sum(g * g, axis=0).to(tl.float64))


@triton.jit
def _clipping(squares, bound):
    """Return the factor on a gradient, float32, that bounds its norm by *bound*."""
    length = tl.sqrt(squares)
    return tl.where(length <= bound, 1.0, bound / length).to(tl.float32)


@triton.jit
def _list(  # noqa: PLR0913, PLR0917 - one argument per buffer
    v,
    inside,
    block_group,  # int32: which group's list the block's candidates join
    smallest,  # float32, by group: magnitude sent in the last step
    slack,  # float32, by group: what exceeds their product is a candidate
    list_begin,  # int64: where each group's list begins, and where the last one ends
    found,  # int64, by group: number of candidates, counted on from 0
    keys,  # int32: the bits of the candidates' magnitudes
    places,  # int64: theirs, block number times block size plus place within the block
    block_first,  # int64: where in its group's list a block's candidates begin
    block_kept,  # int64: set to 0
    block: tl.constexpr,
):
    """Append one block's candidates to its group's list, as far as there is room."""
    program = tl.program_id(0).to(tl.int64)
    group = tl.load(block_group + program)
    magnitude = tl.abs(v)
    above = inside & (magnitude > tl.load(smallest + group) * tl.load(slack + group))
    count = tl.sum(above.to(tl.int32), axis=0)
    tl.store(block_kept + program, program * 0)
    if count > 0:
        first = tl.atomic_add(found + group, count.to(tl.int64), sem="relaxed")
        tl.store(block_first + program, first)
        begin = tl.load(list_begin + group)
        room = tl.load(list_begin + group + 1) - begin
        place = first + tl.cumsum(above.to(tl.int32), axis=0) - 1
        fits = above & (place < room)
        at = begin + place
        tl.store(keys + at, magnitude.to(tl.int32, bitcast=True), mask=fits)
        tl.store(places + at, program * block + tl.arange(0, block), mask=fits)


@triton.jit
def accumulate(  # noqa: PLR0913, PLR0915, PLR0917 - one kernel, one argument per buffer
    gradients,  # int64 addresses of the tensors
    weights,  # the same, of what the second term adds; read if has_weights
    block_tensor,  # int32: which tensor a block belongs to
    block_inside,  # int64: its first element in that tensor
    block_flat,  # int64: its first element in velocity and residual
    block_length,  # int32
    velocity,
    residual,
    block_group,  # this and what follows as in `_list`, read if scans
    smallest,
    slack,
    list_begin,
    found,
    keys,
    places,
    block_first,
    block_kept,
    squares,  # float64: sum of the gradient's squares; this and what follows is for clips
    bound,  # float64: norm that it is clipped to
    clip_factor,  # float32: set to the factor on the gradient
    momentum,
    gradient_factor,
    weight_factor,
    clips: tl.constexpr,
    has_weights: tl.constexpr,
    corrects: tl.constexpr,
    nesterov: tl.constexpr,
    keeps: tl.constexpr,
    scans: tl.constexpr,
    element: tl.constexpr,  # type of the gradients
    weight_element: tl.constexpr,
    block: tl.constexpr,
):
    """Accumulate one block by the law of `dgc_topo.compression.accumulation`, list its candidates.

    Products and sums are rounded one by one (the launch forbids fusing them), so results equal
    those of the plain operations bit for bit.  A gradient that is not finite changes nothing.
    """
    program = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, block)
    length = tl.load(block_length + program)
    if clips:
        total = tl.load(squares)
        length = tl.where(total < float("inf"), length, 0)
        gradient_factor = _clipping(total, tl.load(bound))
        if program == 0:
            tl.store(clip_factor, gradient_factor)
    inside = lanes < length
    flat = tl.load(block_flat + program) + lanes

    tensor = tl.load(block_tensor + program)
    at = tl.load(block_inside + program) + lanes
    source = tl.load(gradients + tensor).to(tl.pointer_type(element))
    g = tl.load(source + at, mask=inside, other=0.0).to(tl.float32) * gradient_factor
    if has_weights:
        source = tl.load(weights + tensor).to(tl.pointer_type(weight_element))
        g = g + tl.load(source + at, mask=inside, other=0.0).to(tl.float32) * weight_factor
    if keeps:
        v = tl.load(residual + flat, mask=inside, other=0.0)
        if corrects:
            u = tl.load(velocity + flat, mask=inside, other=0.0)
            if nesterov:
                u = (u + g) * momentum
                v = v + g
            else:
                u = u * momentum + g
            tl.store(velocity + flat, u, mask=inside)
            v = v + u
        else:
            v = v + g
    else:
        v = g
    tl.store(residual + flat, v, mask=inside)

    if scans:
        _list(
            v,
            inside,
            block_group,
            smallest,
            slack,
            list_begin,
            found,
            keys,
            places,
            block_first,
            block_kept,
            block,
        )


@triton.jit
def scan(  # noqa: PLR0913, PLR0917 - one argument per buffer
    block_flat,
    block_length,
    residual,
    block_group,
    smallest,
    slack,
    list_begin,
    found,
    keys,
    places,
    block_first,
    block_kept,
    block: tl.constexpr,
):
    """List the candidates of one block of the finished residual."""
    program = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, block)
    inside = lanes < tl.load(block_length + program)
    v = tl.load(residual + tl.load(block_flat + program) + lanes, mask=inside, other=0.0)
    _list(
        v,
        inside,
        block_group,
        smallest,
        slack,
        list_begin,
        found,
        keys,
        places,
        block_first,
        block_kept,
        block,
    )


@triton.jit
def take(  # noqa: PLR0913, PLR0917 - one argument per buffer
    indices,  # int64, unique
    values,  # float32: what the residual holds there, as numbers of the wire
    given,  # int64: if it is not *count*, nothing is done; or None
    count,
    residual,
    velocity,
    masks: tl.constexpr,
    element: tl.constexpr,  # type of numbers on the wire
    largest: tl.constexpr,  # magnitude to be sent
    block: tl.constexpr,
):
    """Remove the elements at some indices from the residual, and from the velocity if it masks.

    Rounding errors, and whatever exceeds the largest number to be sent, stay in the residual.
    """
    lanes = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    if given is not None:
        count = tl.where(tl.load(given) == count, count, 0)
    inside = lanes < count
    index = tl.load(indices + lanes, mask=inside, other=0)
    value = tl.load(residual + index, mask=inside, other=0.0)
    zeros = tl.zeros([block], tl.float32)
    sent, rest = value, zeros
    if element != tl.float32:
        sent = tl.minimum(tl.maximum(value, -largest), largest).to(element).to(tl.float32)
        rest = value - sent
    tl.store(values + lanes, sent, mask=inside)
    tl.store(residual + index, rest, mask=inside)
    if masks:
        tl.store(velocity + index, zeros, mask=inside)
