"""One step of a schedule: transfers, as arrays, that all read the state before the step.

On arrival of a transfer the receiver computes ``dst = keep * dst + weight * src`` on a run of
chunks.  Naming both ends in one place makes an unmatched send impossible to write.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
Ints = int | npt.NDArray[np.int64]


class ScheduleError(ValueError):
    """A schedule that cannot run, or that computes the wrong thing."""


@dataclass(frozen=True, slots=True, order=True)
class Transfer:
    """One message, as plain numbers; ``dst = keep * dst + weight * src`` on its chunks."""

    src: int
    dst: int
    chunk: int
    count: int
    keep: Fraction
    weight: Fraction

    def __str__(self) -> str:
        return f"rank {self.src} -> rank {self.dst}, chunks {self.chunk}..{self.chunk_end - 1}"

    @property
    def chunk_end(self) -> int:
        """One past the last chunk."""
        return self.chunk + self.count


@dataclass(frozen=True, slots=True, eq=False)
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
        denominator: What *keep* and *weight* are divided by.

    Raises:
        ScheduleError: if a rank sends to itself, a number is negative or a run is empty.
    """

    src: IntArray
    dst: IntArray
    chunk: IntArray
    count: IntArray
    keep: IntArray
    weight: IntArray
    denominator: int = 1

    def __post_init__(self) -> None:
        if self.denominator < 1:
            raise ScheduleError(f"step: denominator {self.denominator}, expected at least 1")
        wrong = (
            (self.src == self.dst)
            | (self.src < 0)
            | (self.dst < 0)
            | (self.chunk < 0)
            | (self.count < 1)
        )
        if wrong.any():
            index = int(np.argmax(wrong))
            raise ScheduleError(
                f"transfer {index}: {self[index]} ({self.count[index]} chunks): expected two "
                "different ranks >= 0, a first chunk >= 0 and at least one chunk"
            )

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
        return Step(
            self.src[which],
            self.dst[which],
            self.chunk[which],
            self.count[which],
            self.keep[which],
            self.weight[which],
            self.denominator,
        )


def reduce(src: Ints, dst: Ints, chunk: Ints = 0, count: Ints = 1) -> Step:
    """Add the senders' chunks to the receivers'."""
    return _step(src, dst, chunk, count, keep=1, weight=1)


def copy(src: Ints, dst: Ints, chunk: Ints = 0, count: Ints = 1) -> Step:
    """Overwrite the receivers' chunks."""
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

    With several senders per receiver in one step, give *keep* (a numerator) as well: the
    receiver's own share on one of them and *denominator* (that is, 1) on the others.
    """
    kept = denominator - weight if keep is None else keep
    return _step(src, dst, chunk, count, keep=kept, weight=weight, denominator=denominator)


def gather(steps: Iterable[Step]) -> Step:
    """Return one step holding the transfers of all *steps*, in their order."""
    parts = [step for step in steps if len(step)]
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return reduce(np.empty(0, np.int64), np.empty(0, np.int64))
    denominator = int(np.lcm.reduce([part.denominator for part in parts]))

    def join(name: str, *, scaled: bool = False) -> IntArray:
        arrays = [
            getattr(part, name) * (denominator // part.denominator if scaled else 1)
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

    When everyone's steps are asked for there is nothing to add, and nothing is sorted.
    """
    return ranks if len(ranks) == world_size else np.union1d(ranks, peers)


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
    values = [np.atleast_1d(np.asarray(v)) for v in (src, dst, chunk, count, keep, weight)]
    for name, value in zip(("src", "dst", "chunk", "count", "keep", "weight"), values, strict=True):
        if value.size and not np.issubdtype(value.dtype, np.integer):
            raise ScheduleError(f"step: {name} holds {value.dtype}, expected integers")
    try:
        # Broadcasting copies nothing: a scalar stays one number however many ranks there are.
        columns = np.broadcast_arrays(*(value.astype(np.int64, copy=False) for value in values))
    except ValueError as error:
        shapes = ", ".join(str(value.shape) for value in values)
        raise ScheduleError(f"step: arrays of one length expected, got shapes {shapes}") from error
    sources, targets, chunks, counts, keeps, weights = columns
    return Step(sources, targets, chunks, counts, keeps, weights, denominator)
