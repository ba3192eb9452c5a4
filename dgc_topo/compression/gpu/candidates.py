"""Candidates on a GPU: the lists that accumulation fills, and the choice of the largest."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dgc_topo.compression.gpu import selection_kernels as kernels
from dgc_topo.compression.gpu import step_kernels
from dgc_topo.compression.gpu.blocks import Blocks, spans
from dgc_topo.compression.layout import Groups
from dgc_topo.compression.threshold import Goal, Tail

CHUNK = 1024  #: candidates per program
NOTES = 16  #: further numbers that other kernels may store beside the outcome
_OUTCOME = 2
_SPARE_ROOM = 256  #: places of a group's list besides a multiple of what it sends
_FEW = 0.02  #: up to this density lists may be generous


class _Plan(NamedTuple):
    """Number of candidates to aim at, and room for them.

    On a GPU spare candidates cost less than on a CPU, and a search that finds too few costs more.
    The plan therefore has more of them to spare, but far fewer than there is room for.

    Attributes:
        room: Places of a list, in multiples of what is sent.
        goal: Candidates to aim at.
    """

    room: float
    goal: Goal


_GENEROUS = _Plan(4.0, Goal(least=1.3, most=3.0, spare=32.0, root=8.0))
_THRIFTY = _Plan(1.5, Goal(least=1.15, most=1.3, spare=32.0, root=8.0))
_VALUES: int = kernels.VALUES.value


class Facts(NamedTuple):
    """Numbers that are known once the GPU is done.

    Attributes:
        num_missed: Groups that have to be searched again.
        num_kept: Candidates kept, of all groups.
        notes: Numbers that other kernels have written to `Lists.notes`.
    """

    num_missed: int
    num_kept: int
    notes: list[int]


class Found(NamedTuple):
    """The largest candidates of each group, and which groups have to be searched again.

    Attributes:
        indices: Shape (n,), int64, strictly ascending.
        missed: Shape (num_groups,), bool; None if there are none.
    """

    indices: Tensor
    missed: Tensor | None


class Lists:
    """Memory for the candidates of all groups, used again in every step.

    Args:
        groups: Groups of elements; each sends its own largest.
        counts: Number of elements that each group sends.
        blocks: Blocks of the kernel that fills the lists.
    """

    def __init__(self, groups: Groups, counts: list[int], blocks: Blocks) -> None:
        self.blocks = blocks
        device, num_groups = blocks.device, groups.num_groups
        sizes = torch.tensor(groups.offsets, dtype=torch.int64, device="cpu").diff()
        self.num_wanted = sum(counts)
        self.few = self.num_wanted <= _FEW * blocks.elements  #: True if little is sent
        self.plan = _GENEROUS if self.few else _THRIFTY
        wanted = torch.tensor(counts, dtype=torch.int64, device="cpu")
        rooms = torch.minimum(sizes, (self.plan.room * wanted).to(torch.int64) + _SPARE_ROOM)
        begin = torch.zeros(num_groups + 1, dtype=torch.int64, device="cpu")
        torch.cumsum(rooms, 0, out=begin[1:])
        places, words = int(begin[-1]), num_groups * kernels.DIGITS * _VALUES
        self.begin = begin.to(device)
        self.chunk_group, self.chunk_begin = spans(rooms, CHUNK, device)
        self.num_chunks = len(self.chunk_group)
        self.block_group = blocks.groups(groups)
        self.group_block = blocks.group_blocks(groups)
        self.wanted = wanted.to(device, torch.int32)
        self.keys = torch.empty(places, dtype=torch.int32, device=device)
        self.places = torch.empty(places, dtype=torch.int64, device=device)
        self.block_first = torch.empty(blocks.count, dtype=torch.int64, device=device)
        self.block_kept = torch.empty_like(self.block_first)
        self.block_sums = torch.empty_like(self.block_first)
        # One piece of memory, so that one call clears all counters, and one copy tells the host.
        parts = [_OUTCOME + NOTES, num_groups, words // 2]
        self._counters = torch.empty(sum(parts), dtype=torch.int64, device=device)
        self.outcome, self.found, rest = torch.split(self._counters, parts)
        self.notes = self.outcome[_OUTCOME:]
        self.histograms = rest.view(torch.int32)
        self.limits, self.rooms, self.missed = torch.empty(
            (3, num_groups), dtype=torch.int32, device=device
        ).unbind()

    def clear(self) -> None:
        """Forget all candidates."""
        self._counters.zero_()


class Candidates:
    """One step's candidates: elements above the threshold that the last step suggests.

    Args:
        lists: Memory for them; cleared.
        smallest: Smallest magnitude that each group sent in the last step, 0 where too few passed.
            Choosing replaces it by this step's, except in groups that have to be searched again.
        tail: The groups' tails, updated in the same way.
        wanted: Number of elements that each group sends, shape (num_groups,), int32; by default
            the number that the lists are made for.
    """

    def __init__(
        self, lists: Lists, smallest: Tensor, tail: Tail, *, wanted: Tensor | None = None
    ) -> None:
        self.lists = lists
        self.smallest = smallest
        self.tail = tail
        self._wanted = lists.wanted if wanted is None else wanted
        self.restart()

    def restart(self) -> None:
        """Begin a step."""
        self._indices: Tensor | None = None
        self._facts: Facts | None = None
        self.lists.clear()

    @property
    def buffers(self) -> tuple[Tensor, ...]:
        """Return the arguments of a kernel that lists candidates, in the kernel's order."""
        lists = self.lists
        return (
            lists.block_group,
            self.smallest,
            self.tail.slack,
            lists.begin,
            lists.found,
            lists.keys,
            lists.places,
            lists.block_first,
            lists.block_kept,
        )

    def watch(self, start: int, values: Tensor) -> None:
        """List the candidates of the finished residual, if no kernel could list them before.

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

    @property
    def num_kept(self) -> Tensor:
        """Number of candidates kept, int64; as many as wanted only if every group has enough."""
        return self.lists.outcome[1]

    def launched(self, indices: Tensor) -> None:
        """Note that `select` was launched, and where its indices are now."""
        self._indices = indices

    def facts(self) -> Facts:
        """Return the numbers that `select` found; waits for the GPU."""
        if self._facts is None:
            num_missed, num_kept, *notes = self.lists.outcome.tolist()
            self._facts = Facts(num_missed, num_kept, notes)
        return self._facts

    def choose(self) -> Found:
        """Return the largest candidates of each group; all of them if there are too few.

        A group with more candidates than its list has room for gets none.  The method waits for the
        GPU once, for the number of candidates.
        """
        if self._indices is None:
            device = self.lists.blocks.device
            self._indices = torch.empty(self.lists.num_wanted, dtype=torch.int64, device=device)
            self.select(self._indices)
        num_missed, num_kept, _ = self.facts()
        return Found(self._indices[:num_kept], self.lists.missed > 0 if num_missed else None)

    def select(self, indices: Tensor) -> None:
        """Write the candidates kept to *indices*, without waiting for their number."""
        if self.lists.blocks.count:
            with self.lists.blocks.on_device():
                self._select(indices)

    def _select(self, indices: Tensor) -> None:
        lists, goal = self.lists, self.lists.plan.goal
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
            self.smallest,
            self.tail.slack,
            self.tail.aim,
            self.tail.width,
            spare=goal.spare,
            root=goal.root,
            least_aim=goal.least,
            most_aim=goal.most,
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
