"""How long ranks are busy with the messages of a step: before they leave, and once there."""

from __future__ import annotations

import numpy as np

from dgc_topo.arrays import BoolArray, FloatArray, IntArray
from dgc_topo.network.hosts import HostCosts
from dgc_topo.schedule import Step
from dgc_topo.simulation.pattern import Pattern
from dgc_topo.simulation.sizes import CodedSizes, Sizes


class Work:
    """What the ranks of one schedule do about its messages.

    Args:
        costs: Of what they do.
        sizes: Of the messages.
        world_size: Number of ranks.
    """

    def __init__(self, costs: HostCosts, sizes: Sizes, world_size: int) -> None:
        self._costs = costs
        self._coded = sizes if costs.has_coding and isinstance(sizes, CodedSizes) else None
        self._world_size = world_size

    @property
    def is_coded(self) -> bool:
        """Whether messages are sparse, and it costs time to make and to read them."""
        return self._coded is not None

    def before_s(
        self, pattern: Pattern, step: Step, num_bytes: FloatArray
    ) -> tuple[FloatArray, BoolArray]:
        """Return how long members work until their messages of a step are posted, and who codes.

        Args:
            pattern: The step's ranks.
            step: Whose messages.
            num_bytes: Of each transfer.

        Returns:
            Seconds of each member, and whether it makes sparse messages, shape (num_members,).
        """
        costs, makes = self._costs, np.zeros(self._world_size, np.bool_)
        before_s = np.asarray(pattern.degree * costs.overhead_s + costs.step_overhead_s, np.float64)
        if self._coded is not None:
            made = _is_made(step)
            makes[step.src[made]] = True
            made_s = costs.code_s_per_message + num_bytes * costs.code_s_per_byte
            made_s = np.where(made, made_s, 0.0)
            before_s += np.bincount(step.src, made_s, self._world_size)[pattern.members]
        return before_s, makes[pattern.members]

    def after_s(self, pattern: Pattern, step: Step, num_bytes: FloatArray) -> FloatArray | None:
        """Return how long each member takes over what it has received in a step.

        Args:
            pattern: The step's ranks.
            step: Whose messages.
            num_bytes: Of each transfer.

        Returns:
            Seconds of each member, shape (num_members,), or None if nobody takes any.
        """
        costs = self._costs
        adds = (step.keep != 0) & (step.weight != 0)
        if self._coded is not None:
            merged_s = costs.code_s_per_message + num_bytes * costs.code_s_per_byte
            merged_s = merged_s + adds * costs.merge_s_per_message
            sorts = self._coded.are_sorted()
            per_byte_s = np.where(sorts, costs.sort_s_per_byte, costs.merge_s_per_byte)
            merged_s = merged_s + self._coded.merged_bytes() * per_byte_s
        elif costs.has_merging:
            per_byte_s = adds * costs.reduce_s_per_byte + _products(step) * costs.scale_s_per_byte
            merged_s = num_bytes * per_byte_s
        else:
            return None
        merged_s = merged_s + costs.receive_overhead_s
        busy_s = np.asarray(np.bincount(step.dst, merged_s, self._world_size), np.float64)
        return np.asarray(busy_s[pattern.members])


def _is_made(step: Step) -> BoolArray:
    """Return which transfers are the first of their run of chunks, which is made once for all."""
    if (step.src[1:] > step.src[:-1]).all():
        return np.ones(len(step), np.bool_)
    places = np.stack([step.src, step.chunk, step.count])
    _, first = np.unique(places, axis=1, return_index=True)
    made = np.zeros(len(step), np.bool_)
    made[first] = True
    return made


def _products(step: Step) -> IntArray:
    """Return by how many weights each transfer makes its receiver multiply."""
    weights, unit = np.stack([step.keep, step.weight]), step.denominator
    return np.asarray(((weights != 0) & (weights != unit)).sum(axis=0), np.int64)
