"""One step of a schedule: transfers, as arrays, that all read the state before the step.

On arrival of a transfer the receiver computes ``dst = keep * dst + weight * src`` on a run of
chunks; arrivals at one rank apply in the order listed (see `order`).  A transfer names both ends,
so that a send without a receive cannot be written.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from dgc_topo.arrays import IntArray

Ints = int | npt.NDArray[np.int64]

#: Largest magnitude of numbers in a step; the sum of two fits 64 bits.
MOST = (1 << 62) - 1


class ScheduleError(ValueError):
    """A schedule that cannot run, or that computes the wrong thing."""


@dataclass(frozen=True, slots=True, order=True)
class Transfer:
    """One message, as plain numbers; ``dst = keep * dst + weight * src`` on its chunks.

    Attributes:
        src: Sending rank.
        dst: Receiving rank.
        chunk: First chunk.
        count: Number of chunks.
        keep: Factor on the receiver's own value.
        weight: Factor on the sender's value.
        is_plain: True if it only adds, or only replaces.
    """

    src: int
    dst: int
    chunk: int
    count: int
    keep: Fraction
    weight: Fraction
    is_plain: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_plain", self.weight == 1 and self.keep in {0, 1})

    def __str__(self) -> str:
        return f"rank {self.src} -> rank {self.dst}, chunks {self.chunk}..{self.chunk_end - 1}"

    @property
    def chunk_end(self) -> int:
        """One past the last chunk."""
        return self.chunk + self.count


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Step:
    """Transfers that read the state *before* the step, one array entry per transfer.

    Weights are exact: *keep* and *weight* are numerators over one *denominator*.
    Build steps with `reduce`, `copy` and `mix`.

    Attributes:
        src: Sending rank of each transfer, shape (num_transfers,).
        dst: Receiving rank.
        chunk: First chunk of the run that is sent.
        count: Number of chunks in the run, at least 1.
        keep: Numerator of the factor on the receiver's own value.
        weight: Numerator of the factor on the sender's value.
        denominator: Divisor of *keep* and *weight*.

    Raises:
        ScheduleError: if a rank sends to itself, a rank or chunk is negative, a run is empty, or
            what is given are not int64 arrays of one length and a positive integer.
    """

    src: IntArray
    dst: IntArray
    chunk: IntArray
    count: IntArray
    keep: IntArray
    weight: IntArray
    denominator: int = 1

    def __post_init__(self) -> None:
        if type(self.denominator) is not int or self.denominator != 1:
            object.__setattr__(self, "denominator", _denominator(self.denominator))
        for column in (self.src, self.dst, self.chunk, self.count, self.keep, self.weight):
            if not _is_column(column) or len(column) != len(self.src):
                raise ScheduleError(
                    "step: expected 1-D int64 arrays of one length, as reduce, copy and mix make"
                )
        wrong = (self.src == self.dst) | ((self.src | self.dst | self.chunk | (self.count - 1)) < 0)
        if wrong.any():
            index = int(np.argmax(wrong))
            raise ScheduleError(
                f"transfer {index}: {self[index]} ({self.count[index]} chunks): expected two "
                "different ranks >= 0, a first chunk >= 0 and at least one chunk"
            )

    def __repr__(self) -> str:
        few = [f"{self.src[i]} -> {self.dst[i]}" for i in range(min(len(self), 4))]
        more = len(self) - len(few)
        return f"Step({', '.join(few)}{f', and {more} more' if more else ''})"

    def __len__(self) -> int:
        return len(self.src)

    def __getitem__(self, index: int) -> Transfer:
        return Transfer(
            int(self.src[index]),
            int(self.dst[index]),
            int(self.chunk[index]),
            int(self.count[index]),
            Fraction(int(self.keep[index]), self.denominator),
            Fraction(int(self.weight[index]), self.denominator),
        )

    def __iter__(self) -> Iterator[Transfer]:
        return (self[index] for index in range(len(self)))

    def select(self, which: npt.NDArray[np.bool_] | IntArray) -> Step:
        """Return the step with only the transfers that *which* (mask or positions) names."""
        part = object.__new__(Step)  # without checks, because the step has been checked
        for name in ("src", "dst", "chunk", "count", "keep", "weight"):
            object.__setattr__(part, name, getattr(self, name)[which])
        object.__setattr__(part, "denominator", self.denominator)
        return part


def reduce(src: Ints, dst: Ints, chunk: Ints = 0, count: Ints = 1) -> Step:
    """Add the senders' chunks to the receivers'.

    Args:
        src: Sending ranks: one number, or an array with one entry per transfer.
        dst: Receiving ranks; src, dst, chunk and count are broadcast against each other.
        chunk: First chunk of the run that is sent.
        count: Number of chunks in the run.

    Example:
        >>> dt.reduce([1, 2], 0)  # ranks 1 and 2 send; rank 0 adds both up
        Step(1 -> 0, 2 -> 0)
    """
    return _step(src, dst, chunk, count, keep=1, weight=1)


def copy(src: Ints, dst: Ints, chunk: Ints = 0, count: Ints = 1) -> Step:
    """Overwrite the receivers' chunks.

    Args:
        src: Sending ranks: one number, or an array with one entry per transfer.
        dst: Receiving ranks; src, dst, chunk and count are broadcast against each other.
        chunk: First chunk of the run that is sent.
        count: Number of chunks in the run.

    Example:
        >>> dt.copy(0, [1, 2])  # rank 0 sends; ranks 1 and 2 take what it has
        Step(0 -> 1, 0 -> 2)
    """
    return _step(src, dst, chunk, count, keep=0, weight=1)


def mix(
    src: Ints,
    dst: Ints,
    chunk: Ints = 0,
    count: Ints = 1,
    *,
    weight: Ints,
    denominator: int,
    keep: Ints | None = None,
) -> Step:
    """Gossip: move each receiver ``weight / denominator`` of the way to its sender.

    With several senders per receiver in one step, give *keep* (a numerator) as well.  The first
    transfer listed has the receiver's own share; the others have *denominator* (a factor of 1), so
    that they only add (see `dgc_topo.schedule.order`).

    Args:
        src: Sending ranks: one number, or an array with one entry per transfer.
        dst: Receiving ranks; src, dst, chunk and count are broadcast against each other.
        chunk: First chunk of the run that is sent.
        count: Number of chunks in the run.
        weight: Numerator of the factor on the sender's value.
        denominator: Divisor of *weight* and *keep*.
        keep: Numerator of the factor on the receiver's own value; by default the rest.

    Example:
        >>> dt.mix(1, 0, weight=1, keep=1, denominator=2)  # rank 0 takes the mean of both
        Step(1 -> 0)
    """
    kept = _denominator(denominator) - weight if keep is None else keep
    return _step(src, dst, chunk, count, keep=kept, weight=weight, denominator=denominator)


def gather(steps: Iterable[Step]) -> Step:
    """Return one step holding the transfers of all *steps*, in their order.

    Example:
        >>> dt.gather([dt.reduce(1, 0), dt.reduce(2, 0)])
        Step(1 -> 0, 2 -> 0)
    """
    parts = [step for step in steps if len(step)]
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return reduce(np.empty(0, np.int64), np.empty(0, np.int64))
    denominator = _denominator(math.lcm(*(part.denominator for part in parts)))

    def join(name: str, *, scaled: bool = False) -> IntArray:
        arrays = [
            _scaled(name, getattr(part, name), denominator // part.denominator if scaled else 1)
            for part in parts
        ]
        return np.concatenate(arrays)

    return Step(
        join("src"),
        join("dst"),
        join("chunk"),
        join("count"),
        join("keep", scaled=True),
        join("weight", scaled=True),
        denominator,
    )


def with_peers(ranks: IntArray, peers: IntArray, world_size: int) -> IntArray:
    """Return the sorted union of *ranks* and *peers*, for a schedule's ``steps_of``.

    If *ranks* are all ranks, there is nothing to add or sort.
    """
    return ranks if len(ranks) == world_size else np.union1d(ranks, peers)


def check_is_step(index: int, step: object) -> None:
    """Refuse anything but a step as the step number *index*.

    Raises:
        ScheduleError: naming the type that it is.
    """
    if not isinstance(step, Step):
        raise ScheduleError(
            f"step {index} is {type(step).__name__}, expected a Step such as reduce, copy or mix "
            "returns"
        )


def _step(
    src: Ints,
    dst: Ints,
    chunk: Ints,
    count: Ints,
    *,
    keep: Ints,
    weight: Ints,
    denominator: int = 1,
) -> Step:
    named = {"src": src, "dst": dst, "chunk": chunk, "count": count, "keep": keep, "weight": weight}
    sizes = {np.size(value) for value in named.values() if np.ndim(value)}
    length = max(sizes - {1}, default=1)
    if not sizes <= {1, length} or any(np.ndim(value) > 1 for value in named.values()):
        shapes = ", ".join(
            f"{name} {np.shape(value)}" for name, value in named.items() if np.ndim(value)
        )
        raise ScheduleError(f"step: arrays of shapes {shapes}, expected one length")
    sources, targets, chunks, counts, keeps, weights = (
        _column(name, value, length) for name, value in named.items()
    )
    return Step(sources, targets, chunks, counts, keeps, weights, denominator)


def _column(name: str, value: Ints, length: int) -> IntArray:
    """Return *value* as int64, shape (length,); arrays that fit already are not copied."""
    if isinstance(value, int):
        return _constant(_checked(name, value), length)
    column = np.atleast_1d(np.asarray(value))
    if column.size and not np.issubdtype(column.dtype, np.integer):
        raise ScheduleError(f"step: {name} holds {column.dtype}, expected integers")
    if column.size and (column.dtype != np.int64 or name in {"keep", "weight"}):
        _checked(name, int(column.max()))
        _checked(name, int(column.min()))
    column = column.astype(np.int64, copy=False)
    return column if column.shape == (length,) else np.broadcast_to(column, (length,))


def _scaled(name: str, numerators: IntArray, factor: int) -> IntArray:
    """Return the numerators over a common denominator, if 64 bits hold them."""
    if factor == 1 or not len(numerators):
        return numerators
    for extreme in (int(numerators.max()), int(numerators.min())):
        _checked(name, extreme * factor)
    return numerators * factor


def _checked(name: str, value: int) -> int:
    if not -MOST <= value <= MOST:
        raise ScheduleError(f"step: {name} {value}, expected a magnitude of at most 2**62 - 1")
    return value


def _denominator(value: int) -> int:
    try:
        whole = operator.index(value)
    except TypeError:
        whole = 0
    if not 1 <= whole <= MOST:
        raise ScheduleError(f"step: denominator {value}, expected an integer from 1 to 2**62 - 1")
    return whole


def _is_column(column: object) -> bool:
    return isinstance(column, np.ndarray) and column.dtype == np.int64 and column.ndim == 1


@lru_cache(maxsize=64)
def _constant(value: int, length: int) -> IntArray:
    """Return a number as an array that stays one number however many ranks there are."""
    one = np.array([value], np.int64)
    one.flags.writeable = False
    return np.broadcast_to(one, (length,))
