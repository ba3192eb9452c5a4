"""Storage of flows: one column per property, one reusable slot per flow."""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from dgc_topo.arrays import FloatArray, IntArray

#: A column of numbers, one by one.
IntColumn = MutableSequence[int]
FloatColumn = MutableSequence[float]


class FlowPool:
    """Columns over slots, for whole-array work, and views of them for one-by-one work.

    A memory view reads and writes Python numbers several times faster than array indexing does;
    both see the same memory.

    Attributes:
        hops: Resources used, shape (max_hops, capacity); an infinite one pads.
        remaining: Bytes still to move at time *since*.
        rate: Current rate in bytes per second.
        since: Time for which *remaining* holds.
        due: Time at which the flow will next change its state.
        active: True if it is past its latency.
        tag: The owner's number for the flow.
        owner: Number of the owner.
        crowd: Number of flows on each resource, waiting or active; that of the last one means
            nothing.

    Args:
        pad: Number of the last resource, which is none.
        capacity: Number of slots at first.
    """

    def __init__(self, pad: int, capacity: int = 16) -> None:
        self.pad = pad
        self.crowd = np.zeros(pad + 1, np.int64)
        self.crowd_at = view_ints(self.crowd)
        self.hops = np.empty((0, capacity), np.int64)
        self.remaining = np.empty(capacity)
        self.rate = np.zeros(capacity)
        self.since = np.zeros(capacity)
        self.due = np.full(capacity, np.inf)
        self.active = np.zeros(capacity, np.bool_)
        self.tag = np.empty(capacity, np.int64)
        self.owner = np.empty(capacity, np.int64)
        self._free = np.arange(capacity)
        self._num_free = capacity
        self._bind()

    def _bind(self) -> None:
        self.hops_at = [view_ints(row) for row in self.hops]
        self.remaining_at, self.rate_at = view_floats(self.remaining), view_floats(self.rate)
        self.since_at, self.due_at = view_floats(self.since), view_floats(self.due)
        self.active_at, self.tag_at = view_bools(self.active), view_ints(self.tag)
        self.owner_at, self._free_at = view_ints(self.owner), view_ints(self._free)

    def allocate(
        self, hops: IntArray, num_bytes: FloatArray, tags: IntArray, owner: int
    ) -> IntArray:
        """Return slots that hold the given flows, not yet active."""
        self._reserve(len(tags), len(hops))
        self._num_free -= len(tags)
        slots = self._free[self._num_free : self._num_free + len(tags)].copy()
        for row, links in zip(self.hops, hops, strict=False):
            row[slots] = links
        for row in self.hops[len(hops) :]:
            row[slots] = self.pad
        self.remaining[slots] = num_bytes
        if len(hops) == 0 or (hops[0] == self.pad).any():
            # From a host to itself there is no link, and it takes no time.
            self.remaining[slots[(hops == self.pad).all(axis=0)]] = 0.0
        self.tag[slots] = tags
        self.owner[slots] = owner
        np.add.at(self.crowd, hops.ravel(), 1)
        return slots

    def allocate_one(self, hops: Sequence[int], num_bytes: float, tag: int, owner: int) -> int:
        """Return a slot that holds the given flow, not yet active."""
        if not self._num_free or len(hops) > len(self.hops):
            self._reserve(1, len(hops))
        self._num_free -= 1
        slot = self._free_at[self._num_free]
        for row in self.hops_at[len(hops) :]:
            row[slot] = self.pad
        for row, hop in zip(self.hops_at, hops, strict=False):
            row[slot] = hop
            self.crowd_at[hop] += 1
        self.remaining_at[slot] = num_bytes if any(hop != self.pad for hop in hops) else 0.0
        self.tag_at[slot] = tag
        self.owner_at[slot] = owner
        return slot

    def hops_of(self, slot: int) -> tuple[int, ...]:
        """Return the resources that one flow uses, padded."""
        return tuple([row[slot] for row in self.hops_at])

    def leave(self, slots: IntArray) -> None:
        """Take flows that have ended off their resources; the slots keep what they hold."""
        np.subtract.at(self.crowd, self.hops[:, slots].ravel(), 1)

    def leave_one(self, slot: int) -> None:
        """Take one flow that has ended off its resources."""
        for row in self.hops_at:
            self.crowd_at[row[slot]] -= 1

    def release(self, slots: IntArray) -> None:
        """Give slots back."""
        self._free[self._num_free : self._num_free + len(slots)] = slots
        self._num_free += len(slots)

    def release_one(self, slot: int) -> None:
        """Give one slot back."""
        self._free_at[self._num_free] = slot
        self._num_free += 1

    def _reserve(self, count: int, max_links: int) -> None:
        capacity = len(self.rate)
        if max_links > len(self.hops):
            more = np.full((max_links - len(self.hops), capacity), self.pad)
            self.hops = np.vstack([self.hops, more])
            self._bind()
        if count <= self._num_free:
            return
        grown = max(2 * capacity, capacity + count)
        for name in ("hops", "remaining", "rate", "since", "due", "active", "tag", "owner"):
            old = getattr(self, name)
            new = np.zeros((*old.shape[:-1], grown), old.dtype)
            new[..., :capacity] = old
            setattr(self, name, new)
        self._free = np.concatenate([self._free[: self._num_free], np.arange(capacity, grown)])
        self._num_free = len(self._free)
        self._free = np.concatenate([self._free, np.zeros(grown - self._num_free, np.int64)])
        self._bind()


def view_ints(array: npt.NDArray[np.int64]) -> IntColumn:
    """Return a view of a one-dimensional array of integers."""
    return cast("IntColumn", array.data)


def view_floats(array: npt.NDArray[np.float64]) -> FloatColumn:
    """Return a view of a one-dimensional array of floats."""
    return cast("FloatColumn", array.data)


def view_bools(array: npt.NDArray[np.bool_]) -> MutableSequence[bool]:
    """Return a view of a one-dimensional array of truth values."""
    return cast("MutableSequence[bool]", array.data)


def view_any(array: npt.NDArray[Any]) -> MutableSequence[Any]:
    """Return a view of a one-dimensional array of any numbers."""
    return cast("MutableSequence[Any]", array.data)
