"""Candidates on a GPU: listed by the pass that accumulates, and the largest of them picked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dgc_topo.compression import threshold
from dgc_topo.compression.gpu import selection_kernels as kernels
from dgc_topo.compression.gpu import step_kernels
from dgc_topo.compression.gpu.blocks import Blocks
from dgc_topo.compression.groups import Groups

CHUNK = 1024  #: candidates per program
_SPARE_ROOM = 256  #: places of a group's list besides a multiple of what it sends
_SPARE = 32.0  #: candidates aimed at besides a multiple of what is sent
_FEW = 0.02  #: up to this density lists may be generous


class _Aim(NamedTuple):
    """How many candidates there should be, in multiples of what is sent.

    They cost less than on a CPU, and a search that found too few costs more: so many more are
    aimed at, but well below what there is room for.
    """

    room: float  #: of a list
    least: float  #: candidates aimed at, at least
    most: float


_GENEROUS, _THRIFTY = _Aim(4.0, 2.0, 3.0), _Aim(1.5, 1.15, 1.3)
_VALUES: int = kernels.VALUES.value


@dataclass(frozen=True, slots=True)
class Learned:
    """What one step's search tells the next, by group; float32, shape (num_groups,), each."""

    smallest: Tensor  #: smallest magnitude sent; 0 where too few passed
    slack: Tensor  #: a threshold is this times the smallest magnitude sent
    aim: Tensor  #: candidates aimed at, in multiples of what is sent


class Found(NamedTuple):
    """The largest candidates of each group, and which groups have to be searched again."""

    indices: Tensor  #: shape (n,), int64, strictly ascending
    missed: Tensor | None  #: shape (num_groups,), bool; None if there are none


class Lists:
    """Memory for the candidates of all groups, used again in every step.

    Args:
        groups: Who competes with whom.
        counts: How many each group sends.
        blocks: The blocks that the kernel which lists them works on.
    """

    def __init__(self, groups: Groups, counts: list[int], blocks: Blocks) -> None:
        self.blocks = blocks
        device, num_groups = blocks.device, groups.num_groups
        sizes = torch.tensor(groups.offsets).diff()
        self.num_wanted = sum(counts)
        self.aim = _GENEROUS if self.num_wanted <= _FEW * blocks.elements else _THRIFTY
        wanted = torch.tensor(counts, dtype=torch.int64)
        rooms = torch.minimum(sizes, (self.aim.room * wanted).to(torch.int64) + _SPARE_ROOM)
        begin = torch.zeros(num_groups + 1, dtype=torch.int64)
        torch.cumsum(rooms, 0, out=begin[1:])
        chunks = ((rooms + CHUNK - 1) // CHUNK).clamp(min=1)
        group = torch.arange(num_groups).repeat_interleave(chunks)
        chunk = torch.arange(len(group)) - (chunks.cumsum(0) - chunks)[group]
        places, words = int(begin[-1]), num_groups * kernels.DIGITS * _VALUES
        self.num_chunks = len(group)
        self.begin = begin.to(device)
        self.chunk_group = group.to(device, torch.int32)
        self.chunk_begin = (chunk * CHUNK).to(device)
        self.block_group = blocks.groups(groups)
        self.group_block = blocks.group_blocks(groups)
        self.wanted = wanted.to(device, torch.int32)
        self.keys = torch.empty(places, dtype=torch.int32, device=device)
        self.places = torch.empty(places, dtype=torch.int64, device=device)
        self.block_first = torch.empty(blocks.count, dtype=torch.int64, device=device)
        self.block_kept = torch.empty_like(self.block_first)
        self.block_sums = torch.empty_like(self.block_first)
        # One piece of memory, so that one call clears all counters.
        self._counters = torch.empty(2 + num_groups + words // 2, dtype=torch.int64, device=device)
        self.outcome, self.found, rest = torch.split(self._counters, [2, num_groups, words // 2])
        self.histograms = rest.view(torch.int32)
        self.limits, self.rooms, self.missed = torch.empty(
            (3, num_groups), dtype=torch.int32, device=device
        ).unbind()

    def clear(self) -> None:
        """Forget all candidates."""
        self._counters.zero_()


class Candidates:
    """One step's candidates: what exceeds the threshold that the last step suggests.

    Args:
        lists: Where they are kept; cleared.
        learned: Last step's; this step's as soon as the largest are picked.
        wanted: How many each group sends, shape (num_groups,), int32; as many as lists are made
            for by default.
    """

    def __init__(self, lists: Lists, learned: Learned, *, wanted: Tensor | None = None) -> None:
        self.lists = lists
        self.learned = learned
        self._wanted = lists.wanted if wanted is None else wanted
        lists.clear()

    @property
    def buffers(self) -> tuple[Tensor, ...]:
        """Return what a kernel needs to list them, in the order of its arguments."""
        lists, learned = self.lists, self.learned
        return (
            lists.block_group,
            learned.smallest,
            learned.slack,
            lists.begin,
            lists.found,
            lists.keys,
            lists.places,
            lists.block_first,
            lists.block_kept,
        )

    def watch(self, start: int, values: Tensor) -> None:
        """List those of the finished residual, if no kernel could while it was written.

        Args:
            start: 0.
            values: The whole residual.
        """
        blocks = self.lists.blocks
        if start or len(values) != blocks.elements:
            raise ValueError(
                f"candidates: {len(values)} elements from {start} on, "
                f"expected the whole residual, {blocks.elements}"
            )
        if blocks.count:
            with blocks.on_device():
                step_kernels.scan[(blocks.count,)](
                    blocks.flat, blocks.length, values, *self.buffers, block=blocks.size
                )

    def choose(self) -> Found:
        """Return the largest candidates of each group, all of them where they are too few.

        A group with more candidates than its list has room for gets none.  It waits for the GPU
        once, for their number.
        """
        lists = self.lists
        indices = torch.empty(lists.num_wanted, dtype=torch.int64, device=lists.blocks.device)
        if not lists.blocks.count:
            return Found(indices[:0], None)
        with lists.blocks.on_device():
            self._select(indices)
        num_missed, num_kept = lists.outcome.tolist()
        return Found(indices[:num_kept], lists.missed > 0 if num_missed else None)

    def _select(self, indices: Tensor) -> None:
        """Write to *indices* what is kept."""
        lists, learned = self.lists, self.learned
        grid, where = (lists.num_chunks,), (lists.chunk_group, lists.chunk_begin, lists.begin)
        shape = {"digits": kernels.DIGITS, "values": _VALUES, "chunk": CHUNK}
        listed = (lists.found, self._wanted, lists.keys)
        for digit in range(kernels.DIGITS):
            kernels.count_digits[grid](*where, *listed, lists.histograms, digit=digit, **shape)
        kernels.count_kept[grid](
            *where,
            *listed,
            lists.places,
            lists.histograms,
            lists.block_kept,
            lists.limits,
            lists.rooms,
            lists.outcome,
            lists.missed,
            learned.smallest,
            learned.slack,
            learned.aim,
            spare=_SPARE,
            least_aim=lists.aim.least,
            most_aim=lists.aim.most,
            decay=threshold.DECAY,
            most=threshold.MOST,
            block=lists.blocks.size,
            **shape,
        )
        torch.cumsum(lists.block_kept, 0, out=lists.block_sums)
        kernels.place_kept[grid](
            *where,
            lists.found,
            lists.keys,
            lists.places,
            lists.limits,
            lists.rooms,
            lists.block_first,
            lists.block_kept,
            lists.block_sums,
            lists.blocks.flat,
            lists.group_block,
            indices,
            chunk=CHUNK,
            block=lists.blocks.size,
        )
