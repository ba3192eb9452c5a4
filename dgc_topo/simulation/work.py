"""Ranks' own work on the messages of a step: before these leave, and after they have arrived."""

from __future__ import annotations

from math import exp, inf

import numpy as np

from dgc_topo.arrays import BoolArray, FloatArray, IntArray
from dgc_topo.network.costs import EndCosts
from dgc_topo.schedule import Step
from dgc_topo.simulation.pattern import Pattern
from dgc_topo.simulation.step_sizes import StepSizes


class Work:
    """Times that ranks spend on the messages of a step.

    Args:
        costs: Costs of handling messages.
        world_size: Number of ranks.
    """

    def __init__(self, costs: EndCosts, world_size: int) -> None:
        self._costs = costs
        self._has_coding, self._has_merging = costs.has_coding, costs.has_merging
        self._world_size = world_size

    def is_coded(self, sizes: StepSizes) -> bool:
        """Return True if messages are sparse and take time to encode and decode."""
        return self._has_coding and sizes.is_sparse

    def before_s(
        self, pattern: Pattern, step: Step, sizes: StepSizes
    ) -> tuple[FloatArray, BoolArray]:
        """Return the seconds of work before messages are posted, and a mask of those who encode.

        Args:
            pattern: Ranks that take part in the step.
            step: Step with the messages.
            sizes: Sizes of its messages.

        Returns:
            Seconds of each member, and True where it makes sparse messages, shape (num_members,).
        """
        costs, makes = self._costs, np.zeros(self._world_size, np.bool_)
        before_s = np.asarray(pattern.degree * costs.overhead_s + costs.step_overhead_s, np.float64)
        if self.is_coded(sizes):
            made = _is_made(step)
            makes[step.src[made]] = True
            made_s = costs.code_s_per_message + sizes.num_bytes * costs.code_s_per_byte
            made_s = np.where(made, made_s, 0.0)
            before_s += np.bincount(step.src, made_s, self._world_size)[pattern.members]
        return before_s, makes[pattern.members]

    def after_s(self, pattern: Pattern, step: Step, sizes: StepSizes) -> FloatArray | None:
        """Return the seconds that each member works on what it has received in a step.

        Args:
            pattern: Ranks that take part in the step.
            step: Step with the messages.
            sizes: Sizes of its messages.

        Returns:
            Seconds of each member, shape (num_members,), or None if nobody takes any.
        """
        costs, num_bytes = self._costs, sizes.num_bytes
        adds = (step.keep != 0) & (step.weight != 0)
        if self._has_coding and sizes.find_merging is not None:
            merged_s = costs.code_s_per_message + num_bytes * costs.code_s_per_byte
            merged_s = merged_s + adds * costs.merge_s_per_message
            merged_bytes, is_sort = sizes.find_merging()
            per_byte_s = np.where(is_sort, costs.sort_s_per_byte, costs.merge_s_per_byte)
            merged_s = merged_s + merged_bytes * per_byte_s
        elif self._has_merging:
            per_byte_s = (
                adds * costs.reduce_s_per_byte + count_products(step) * costs.scale_s_per_byte
            )
            merged_s = num_bytes * per_byte_s
            if costs.joint_merge_s:
                merged_s = merged_s + merges_jointly(step) * costs.joint_merge_s
        else:
            return None
        merged_s = merged_s + costs.receive_overhead_s
        busy_s = np.asarray(np.bincount(step.dst, merged_s, self._world_size), np.float64)
        return np.asarray(busy_s[pattern.members])


def _is_made(step: Step) -> BoolArray:
    """Return a mask of the first transfer of each run of chunks, for which the message is made."""
    if (step.src[1:] > step.src[:-1]).all():
        return np.ones(len(step), np.bool_)
    places = np.stack([step.src, step.chunk, step.count])
    _, first = np.unique(places, axis=1, return_index=True)
    made = np.zeros(len(step), np.bool_)
    made[first] = True
    return made


def count_products(step: Step) -> IntArray:
    """Return the multiplications by a weight that each transfer causes at its receiver."""
    weights, unit = np.stack([step.keep, step.weight]), step.denominator
    return np.asarray(((weights != 0) & (weights != unit)).sum(axis=0), np.int64)


def merges_jointly(step: Step) -> BoolArray:
    """Return a mask of the first transfer to each place where more is merged than one plain one.

    A place is a receiver and a first chunk.  Where several transfers meet, or weights multiply, all
    are merged at once.
    """
    unit = step.denominator
    plain = (step.weight == unit) & ((step.keep == 0) | (step.keep == unit))
    place = step.dst * (int(step.chunk.max(initial=0)) + 1) + step.chunk
    _, first, which, count = np.unique(
        place, return_index=True, return_inverse=True, return_counts=True
    )
    joint = (count > 1) | (np.bincount(which, ~plain, len(count)) > 0)
    jointly = np.zeros(len(step), np.bool_)
    jointly[first[joint]] = True
    return jointly


#: Kinds of work on sparse messages; 0 is none.
MAKES, READS = 1, 2


class CodingHistory:
    """Cold-cache penalty for coding sparse messages, by the time since a rank last did so.

    Args:
        costs: Cost of coding after a pause.
        world_size: Number of ranks.

    Attributes:
        matters: True if cold caches cost anything.
    """

    def __init__(self, costs: EndCosts, world_size: int) -> None:
        self.matters = costs.cold_code_s > 0
        self._costs = costs
        self._last_s = np.full((READS + 1, world_size), -inf)

    def note(self, kinds: IntArray, ranks: IntArray, now_s: float | FloatArray) -> None:
        """Record that ranks have just made or read sparse messages."""
        self._last_s[kinds, ranks] = now_s

    def note_one(self, kind: int, rank: int, now_s: float) -> None:
        """Record that one rank has just made or read sparse messages."""
        self._last_s[kind, rank] = now_s

    def cold_s(self, kinds: IntArray, ranks: IntArray, now_s: float | FloatArray) -> FloatArray:
        """Return the penalty in seconds of ranks that begin now, same shape."""
        passed_s = now_s - self._last_s[kinds, ranks]
        cold_s = self._costs.cold_code_s * -np.expm1(-passed_s / self._costs.cooling_s)
        return np.where(kinds > 0, cold_s, 0.0)

    def cold_one_s(self, kind: int, rank: int, now_s: float) -> float:
        """Return the penalty of one rank."""
        if not kind:
            return 0.0
        passed_s = now_s - float(self._last_s[kind, rank])
        return self._costs.cold_code_s * (1 - exp(-passed_s / self._costs.cooling_s))
