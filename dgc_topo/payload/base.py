"""The payload: one rank's buffer, as the schedule sees it.

A schedule speaks of chunk *numbers*; the payload decides where a chunk begins and ends, packs a
run of chunks into a message, and merges the messages of one step.  The law of merging, for every
kind of payload: where messages and the receiver's own value meet, their weighted terms are added
**in rank order, the receiver's own term at its own rank's place**.  Ranks that add the same terms
therefore end bit-identical, whoever received what from whom.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from fractions import Fraction
from typing import Generic, NamedTuple, Protocol, TypeVar

from torch import Tensor, device

from dgc_topo.schedule import Transfer

#: ``(length, num_chunks)`` to the num_chunks + 1 sorted offsets that delimit the chunks, from 0 to
#: length.  All ranks must derive the same ones.
BoundsOf = Callable[[int, int], Sequence[int]]


class HasTransfer(Protocol):
    """Anything that arrives by a transfer."""

    @property
    def transfer(self) -> Transfer:
        """What it is part of."""


A = TypeVar("A", bound=HasTransfer)


class Arrival(NamedTuple):
    """A message that has reached its destination."""

    transfer: Transfer
    message: Tensor  #: 1-D contiguous uint8, as `Payload.pack` made it on the sender


class Payload(Protocol):
    """One rank's buffer during one run of a schedule.

    The executor calls `cut` once; then for every step `pack` for each message to send, and `merge`
    with what arrived; and `finish` once.  What arrived for chunks that overlap comes in one
    `merge`, after all messages that carry those chunks have left; of disjoint chunks, some may be
    merged while others are still under way, and packed for the next step while others are merged.
    """

    @property
    def device(self) -> device:
        """Where the buffer lives, and where arriving messages have to be."""

    @property
    def layout(self) -> Hashable:
        """What the sizes of messages depend on, and whether they can land, beside *num_chunks*."""

    def cut(self, num_chunks: int, *, agree: bool = True) -> None:
        """Fix the chunk boundaries, before a run.

        Args:
            num_chunks: Number of chunks the schedule speaks of.
            agree: Whether all ranks are to end with the same bits, as in an all-reduce; gossip
                only brings them nearer to each other.

        Raises:
            ValueError: if *num_chunks* is below 1.
        """

    def message_bytes(self, chunk: int, count: int) -> int | None:
        """Return the bytes of the message for *count* chunks from *chunk* on.

        Returns:
            A number that sender and receiver both derive, or None if only the sender knows.
        """

    def pack(self, chunk: int, count: int) -> Tensor:
        """Return *count* chunks from *chunk* on as one message.

        Returns:
            1-D contiguous uint8 tensor whose first byte is aligned for the largest element it
            holds; it may be a view of the buffer, valid until one of its chunks is merged into.
        """

    def landing(self, chunk: int, count: int) -> Tensor | None:
        """Return where a message for these chunks may be received instead of being merged.

        Asked only for a message that replaces them, and that nothing else overlaps.

        Returns:
            1-D contiguous uint8 tensor in the buffer's memory, as long as the message; None if the
            buffer does not hold messages as they travel.
        """

    def merge(self, arrivals: Sequence[Arrival], rank: int) -> None:
        """Apply what arrived at *rank* in one step: all of it, or all for some of the chunks.

        Args:
            arrivals: Messages of one step, valid during the call only and not to be written to;
                overlapping runs are allowed.
            rank: The receiver, which decides the place of its own value in the sum.

        Raises:
            ValueError: if a message does not fit its run of chunks.
        """

    def finish(self) -> None:
        """End a run: make the result what every other rank holds, if they are to agree."""


class Term(NamedTuple, Generic[A]):
    """One addend of a merged run: ``coefficient * arrival``, or of the receiver's own value."""

    coefficient: float
    arrival: A | None  #: None is the receiver's own value


def equal_bounds(length: int, num_chunks: int) -> list[int]:
    """Return offsets of *num_chunks* equal slices: chunk c ends where ``(c+1)*length//n`` is.

    Raises:
        ValueError: if *num_chunks* is below 1.
    """
    if num_chunks < 1:
        raise ValueError(f"payload: cut into {num_chunks} chunks, expected at least 1")
    return [chunk * length // num_chunks for chunk in range(num_chunks + 1)]


def runs(arrivals: Sequence[A]) -> Iterator[tuple[int, int, list[A]]]:
    """Split what the arrivals cover wherever one of them begins or ends.

    Yields:
        First chunk, one past the last chunk, and the arrivals that cover this run, ordered by
        source (then by their place in *arrivals*).
    """
    in_order = sorted(arrivals, key=lambda arrival: arrival.transfer.src)
    edges: dict[int, tuple[list[int], list[int]]] = {}
    for place, arrival in enumerate(in_order):
        edges.setdefault(arrival.transfer.chunk, ([], []))[0].append(place)
        edges.setdefault(arrival.transfer.chunk_end, ([], []))[1].append(place)
    active: set[int] = set()
    previous = 0
    for edge in sorted(edges):
        if active:
            yield previous, edge, [in_order[place] for place in sorted(active)]
        starting, ending = edges[edge]
        active.difference_update(ending)
        active.update(starting)
        previous = edge


def weighted_terms(arrivals: Sequence[A], rank: int) -> list[Term[A]]:
    """Return what a run of chunks becomes: a sum of terms, to be added in this order.

    Each arrival means ``dst = keep * dst + weight * src``, applied in the order of *arrivals*.
    Unrolled exactly, an arrival's coefficient is its weight times the keeps of all that follow;
    terms with coefficient 0 are left out, so a copy never touches what it overwrites.

    Args:
        arrivals: All arrivals on one run, ordered by source, as `runs` yields them.
        rank: The receiver; its own term stands at its own rank's place.
    """
    factor = Fraction(1)
    terms: list[tuple[int, Fraction, A | None]] = []
    for arrival in reversed(arrivals):
        terms.append((arrival.transfer.src, factor * arrival.transfer.weight, arrival))
        factor *= arrival.transfer.keep
    terms.append((rank, factor, None))
    terms.reverse()
    terms.sort(key=lambda term: term[0])  # stable: only the own term moves
    return [Term(float(coefficient), arrival) for _, coefficient, arrival in terms if coefficient]
