"""Completion: where and when the sum of a chunk first holds every contribution.

Whoever completes a chunk by a reduce knows its whole sum before anybody is sent it, and may
therefore take something out of it.  Those who receive it by a copy get what is left.  Ranks that
complete a chunk by reduces of their own, as in a doubling butterfly or a mesh, hold equal values
and take out the same; only one of them may keep it.

The numbers of contributions that chunks have merged say all this (`contributors`); exact weights
are not needed for a schedule that is an all-reduce.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from dgc_topo.arrays import BoolArray, IntArray
from dgc_topo.schedule.contributors import Contributors
from dgc_topo.schedule.schedule import Schedule

#: Policy of a sparse sum: ``union`` keeps all of it; ``reselect`` keeps the largest entries of
#: every chunk, where it completes; ``auto`` does so only where a complete chunk is sent on.
Merge = Literal["union", "reselect", "auto"]

_NEVER = -1


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """Completions of an all-reduce's chunks.

    Attributes:
        step: Step after which a rank's chunk is complete by a reduce, shape (world_size,
            num_chunks); -1 if it arrives complete, by a copy, or was so from the beginning.
        merge: Number of steps up to that one in which something arrived for the rank's chunk, same
            shape; 0 if it never becomes complete by a reduce.
        keeper: Contributor that completes each chunk first, of several the lowest, shape
            (num_chunks,); -1 if only servers do, or nobody.
        is_passed_on: True for chunks that are sent when they are complete, shape (num_chunks,).
    """

    step: npt.NDArray[np.int32]
    merge: npt.NDArray[np.int32]
    keeper: IntArray
    is_passed_on: BoolArray


class Role(NamedTuple):
    """One rank's part in a run.

    Attributes:
        schedule: The schedule that is run.
        rank: The rank.
    """

    schedule: Schedule
    rank: int

    def completion(self) -> Completion:
        """Return the completions of all ranks."""
        return completion_of(self.schedule)


@lru_cache(maxsize=8)
def completion_of(schedule: Schedule) -> Completion:
    """Return where and when each chunk of an all-reduce becomes complete.

    Raises:
        ValueError: if the schedule has too many ranks and chunks to count contributions.
    """
    counted = Contributors(schedule)
    shape = schedule.world_size, schedule.num_chunks
    step_of, merge_of, merges = (np.zeros(len(counted.merged), np.int32) for _ in range(3))
    step_of[:] = _NEVER
    is_passed_on = np.zeros(schedule.num_chunks, np.bool_)
    for index, step in enumerate(schedule.steps()):
        _, written, _ = counted.cells(step)
        cells = np.unique(written)
        was_complete = counted.merged[cells] == counted.most
        given, _, _ = counted.advance(step)
        whole = written[given == counted.most]
        is_passed_on[whole % schedule.num_chunks] = True
        merges[cells] += 1
        is_new = (counted.merged[cells] == counted.most) & ~was_complete & ~np.isin(cells, whole)
        done = cells[is_new]
        step_of[done], merge_of[done] = index, merges[done]
    steps = step_of.reshape(shape)
    return Completion(steps, merge_of.reshape(shape), _keepers(schedule, steps), is_passed_on)


def check_keepers(schedule: Schedule) -> None:
    """Refuse a schedule in which nobody could keep what is taken out of some chunk.

    Raises:
        ValueError: naming the first such chunk.
    """
    found = completion_of(schedule)
    homeless = (found.keeper < 0) & (found.step >= 0).any(axis=0)
    if homeless.any():
        raise ValueError(
            f"merge = 'reselect': chunk {int(np.argmax(homeless))} is completed by a server, which "
            "has no residual for what it rejects, expected a topology whose servers train, or "
            "'auto'"
        )


def reselects(schedule: Schedule, merge: Merge) -> bool:
    """Return True if complete chunks are sent on with less than the whole sum.

    Chunks that only a server completes stay whole; all chunks of the schedules that have servers
    are alike.

    Raises:
        ValueError: as `check_keepers`, for ``reselect``.
    """
    if merge == "union" or not schedule.servers:  # completion takes time to find
        return merge != "union"
    if merge == "reselect":
        check_keepers(schedule)
    return bool((completion_of(schedule).keeper >= 0).any())


def _keepers(schedule: Schedule, steps: npt.NDArray[np.int32]) -> IntArray:
    """Return the contributor that completes each chunk first; -1 where none does."""
    own = schedule.contributors
    never = np.iinfo(np.int32).max
    since = np.where(steps[own] == _NEVER, never, steps[own])
    first = since.argmin(axis=0)
    return np.asarray(np.where(since.min(axis=0) == never, -1, own[first]), np.int64)
