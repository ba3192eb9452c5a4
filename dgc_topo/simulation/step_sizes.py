"""Sizes of the transfers of a step: what the engines ask for, and what they get."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from dgc_topo.arrays import BoolArray, FloatArray
from dgc_topo.schedule import Schedule, Step
from dgc_topo.simulation.kept_steps import KeptSteps

_LARGE = 1e200  # bytes of which a step's sum is finite for sure


class Merging(NamedTuple):
    """Work of adding the coded transfers of a step to their receivers' entries.

    Attributes:
        num_bytes: Bytes that adding each transfer reads, shape (num_transfers,): those that arrive
            and the receiver's own; 0 if a transfer only replaces.
        is_sort: True for transfers that are sorted, because many entries meet; same shape.
    """

    num_bytes: FloatArray
    is_sort: BoolArray


@dataclass(frozen=True, slots=True, eq=False)
class StepSizes:
    """Sizes of the transfers of one step.

    Attributes:
        num_bytes: Bytes of each transfer, shape (num_transfers,); if all are alike, preferably one
            number that `numpy.broadcast_to` has spread.
        find_merging: Function that finds the work of adding them entry by entry, which only some
            networks need; None for dense messages.
    """

    num_bytes: FloatArray
    find_merging: Callable[[], Merging] | None = None

    @property
    def is_sparse(self) -> bool:
        """True for messages of entries."""
        return self.find_merging is not None


@runtime_checkable
class Sizes(Protocol):
    """Sizes of the transfers of a schedule."""

    def of_step(self, step_index: int, step: Step) -> StepSizes:
        """Return the sizes of a step's transfers; called for every step, in order.

        An index that is not above the last one begins a new run: a run may be begun by one engine
        and left to the other.
        """


@runtime_checkable
class AlikeSizes(Sizes, Protocol):
    """Sizes that are known for many steps at once, where all messages of a step are alike."""

    def of_alike_steps(self, kept: KeptSteps, which: range) -> FloatArray | None:
        """Return the bytes of a message of each of these steps; None if a step's differ."""


@runtime_checkable
class CutSizes(Sizes, Protocol):
    """Sizes of a buffer that has been cut into chunks, and fits only schedules with these."""

    def check_fit(self, schedule: Schedule) -> None:
        """Refuse a schedule for which these sizes were not made.

        Raises:
            ValueError: naming what differs.
        """


def checked_sizes(sizes: Sizes, step_index: int, step: Step) -> StepSizes:
    """Return the sizes of a step.

    Raises:
        ValueError: if a size is negative or not finite, or there is not one per transfer.
    """
    found = sizes.of_step(step_index, step)
    num_bytes = found.num_bytes
    if num_bytes.shape != (len(step),):
        raise ValueError(
            f"step {step_index}: sizes of shape {num_bytes.shape}, expected ({len(step)},)"
        )
    if num_bytes.strides == (0,) and len(step) and 0 <= float(num_bytes[0]) < _LARGE:
        return found
    if not (num_bytes.min(initial=0.0) >= 0 and num_bytes.sum() < np.inf):
        index = int(np.argmin((num_bytes >= 0) & np.isfinite(num_bytes)))
        raise ValueError(
            f"step {step_index}: {step[index]}: {num_bytes[index]} bytes, "
            "expected a finite number, 0 or more"
        )
    return found


def spread(value: float, count: int) -> FloatArray:
    """Return an array of *count* equal numbers that takes the memory of one."""
    return np.broadcast_to(np.array([value]), (count,))
