"""The DGC step as one Triton kernel: every byte is read once and written once.

A program handles one block of one tensor: it accumulates velocity and residual by the law of
`dgc_topo.compression.accumulation` and appends what exceeds the block's threshold to a list of
candidates.  All tensors share one launch: a table says where each block's gradient lies.

Products and sums are rounded one by one (the launch forbids fusing them), so results equal those
of the plain operations bit for bit.  All offsets are int64: a buffer may exceed 2**31 elements.
"""

from __future__ import annotations

import triton
import triton.language as tl

BLOCK = 4096  #: elements per program


@triton.jit
def accumulate(  # noqa: PLR0913, PLR0915, PLR0917 - one kernel, one argument per buffer
    gradients,  # int64 addresses of the tensors
    weights,  # the same, of what the second term adds; read if has_weights
    block_tensor,  # int32: which tensor a block belongs to
    block_inside,  # int64: its first element in that tensor
    block_flat,  # int64: its first element in velocity and residual
    block_length,  # int32
    block_group,  # int32: which threshold holds
    velocity,
    residual,
    thresholds,  # float32, by group
    found,  # int64: number of candidates, counted on from what it is
    indices,  # int64 candidates, in any order
    magnitudes,  # float32, theirs
    capacity,
    momentum,
    gradient_factor,
    weight_factor,
    has_weights: tl.constexpr,
    corrects: tl.constexpr,
    nesterov: tl.constexpr,
    keeps: tl.constexpr,
    scans: tl.constexpr,
    element: tl.constexpr,  # type of the gradients
    weight_element: tl.constexpr,
    block: tl.constexpr,
):
    """Accumulate one block, and list what exceeds its threshold if *scans*."""
    program = tl.program_id(0).to(tl.int64)
    tensor = tl.load(block_tensor + program)
    lanes = tl.arange(0, block)
    inside = lanes < tl.load(block_length + program)
    at = tl.load(block_inside + program) + lanes
    flat = tl.load(block_flat + program) + lanes

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
        magnitude = tl.abs(v)
        limit = tl.load(thresholds + tl.load(block_group + program))
        above = inside & (magnitude > limit)
        count = tl.sum(above.to(tl.int32), axis=0)
        if count > 0:
            first = tl.atomic_add(found, count.to(tl.int64))
            place = first + tl.cumsum(above.to(tl.int32), axis=0) - 1
            fits = above & (place < capacity)
            tl.store(indices + place, flat, mask=fits)
            tl.store(magnitudes + place, magnitude, mask=fits)
