"""The payload: one rank's buffer, as the schedule sees it.

A schedule speaks of chunk *numbers*; the payload decides where a chunk begins and ends, packs a
run of chunks into a message, and merges the messages of one step.  The law of merging, for every
kind of payload: what is added follows from the order in which the step lists the arrivals (see
`dgc_topo.schedule.order`); where messages and the receiver's own value meet, the weighted terms
are added **in rank order, the receiver's own term at its own rank's place**.  Ranks that add the
same terms therefore end bit-identical, whoever received what from whom.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Generic, NamedTuple, Protocol, TypeVar

from torch import Tensor, device

from dgc_topo.schedule import Goal, Transfer, unroll

#: ``(length, num_chunks)`` to the num_chunks + 1 sorted offsets that delimit the chunks, from 0 to
#: length.  All ranks must derive the same ones.
BoundsOf = Callable[[int, int], Sequence[int]]

#: Of what means something only as the sum of all ranks' parts.
SUM: frozenset[Goal] = frozenset({"all-reduce"})

#: Of a buffer that each rank may have a mixture of.  Column-stochastic mixing is not among them: it
#: keeps the total and not the averages, so what is mixed has to bring its weight along (push-sum).
MIXTURE: frozenset[Goal] = SUM | {"doubly-stochastic", "part"}


class HasTransfer(Protocol):
    """Value that arrives by a transfer."""

    @property
    def transfer(self) -> Transfer:
        """Transfer that it is part of."""


A = TypeVar("A", bound=HasTransfer)


class Arrival(NamedTuple):
    """A message that has reached its destination.

    Attributes:
        transfer: Transfer that it is the message of.
        message: 1-D contiguous uint8, as `Payload.pack` made it on the sender.
    """

    transfer: Transfer
    message: Tensor


class Payload(Protocol):
    """One rank's buffer during one run of a schedule.

    The executor calls `cut` once; then for every step `pack` for each message to send, and `merge`
    with what arrived; and `finish` once.  What arrived for chunks that overlap comes in one
    `merge`, after all messages that carry those chunks have left; of disjoint chunks, some may be
    merged while others are still under way, and packed for the next step while others are merged.

    Attributes:
        made_with: Settings of what made it, by key: JSON values, the same on every rank.
    """

    made_with: Mapping[str, object]

    @property
    def device(self) -> device:
        """Device of the buffer, where arriving messages have to be as well."""

    @property
    def layout(self) -> Hashable:
        """Key of the sizes of messages, and of where they can land, beside *num_chunks*."""

    @property
    def goals(self) -> frozenset[Goal]:
        """Promises of a schedule after which this payload means something."""

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

    def most_bytes(self, chunk: int, count: int, world_size: int) -> int:
        """Return the most bytes of the message for these chunks, from any rank.

        What a peer claims to be longer is refused before memory is taken for it.
        """

    def encoded_bytes(self) -> int:
        """Return the bytes of the whole buffer as one message, indices and headers included."""

    def pack(self, chunk: int, count: int) -> Tensor:
        """Return *count* chunks from *chunk* on as one message.

        Returns:
            1-D contiguous uint8 tensor whose first byte is aligned for the largest element it
            holds; it may be a view of the buffer, valid until one of its chunks is merged into.
        """

    def landing(self, chunk: int, count: int) -> Tensor | None:
        """Return memory that may receive a message for these chunks instead of a merge.

        Asked only for a message that replaces them, and that nothing else overlaps.

        Returns:
            1-D contiguous uint8 tensor in the buffer's memory, as long as the message; None if the
            buffer does not hold messages as they travel.
        """

    def merge(self, arrivals: Sequence[Arrival], rank: int) -> None:
        """Apply the arrivals at *rank* of one step: all of them, or all for some of the chunks.

        Args:
            arrivals: Messages of one step, as listed in it, valid during the call only and not to
                be written to; overlapping runs are allowed.
            rank: The receiver, which decides the place of its own value in the sum.

        Raises:
            ValueError: if a message does not fit its run of chunks.
        """

    def finish(self) -> None:
        """End a run: round the result to what every other rank holds, if they are to agree."""


class Term(NamedTuple, Generic[A]):
    """One addend of a merged run: ``coefficient * arrival``, or of the receiver's own value.

    Attributes:
        coefficient: Its weight.
        arrival: What arrived; None is the receiver's own value.
    """

    coefficient: float
    arrival: A | None


def check_goal(where: str, payload: Payload, goal: Goal) -> None:
    """Refuse a schedule after which *payload* would mean nothing, before anything is sent.

    Raises:
        ValueError: naming *where*, the schedule's goal and those that the payload can do with.
    """
    if goal not in payload.goals:
        expected = " or ".join(sorted(payload.goals)) or "one goal for all its parts"
        raise ValueError(
            f"{where}: its schedule is {_GOALS[goal]}, expected {expected} for this payload "
            f"({type(payload).__name__})"
        )


_GOALS: dict[Goal, str] = {
    "all-reduce": "an all-reduce: every rank ends with the sum",
    "doubly-stochastic": "doubly-stochastic: every rank ends with a mixture of its own",
    "column-stochastic": "column-stochastic: mixtures that mean nothing without their weights",
    "part": "a part of another: it promises nothing",
}


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
        First chunk, one past the last chunk, and the arrivals that cover this run, in the order of
        *arrivals*.
    """
    edges: dict[int, tuple[list[int], list[int]]] = {}
    for place, arrival in enumerate(arrivals):
        edges.setdefault(arrival.transfer.chunk, ([], []))[0].append(place)
        edges.setdefault(arrival.transfer.chunk_end, ([], []))[1].append(place)
    active: set[int] = set()
    previous = 0
    for edge in sorted(edges):
        if active:
            yield previous, edge, [arrivals[place] for place in sorted(active)]
        starting, ending = edges[edge]
        active.difference_update(ending)
        active.update(starting)
        previous = edge


def weighted_terms(arrivals: Sequence[A], rank: int) -> list[Term[A]]:
    """Return the terms whose sum a run of chunks becomes, to be added in this order.

    Terms with coefficient 0 are left out, so a copy never touches what it overwrites.

    Args:
        arrivals: All arrivals on one run, in the order listed, as `runs` yields them.
        rank: The receiver; its own term stands at its own rank's place.
    """
    own, factors = unroll([arrival.transfer for arrival in arrivals])
    terms: list[tuple[int, Fraction, A | None]] = [(rank, own, None)]
    for factor, arrival in zip(factors, arrivals, strict=True):
        terms.append((arrival.transfer.src, factor, arrival))
    terms.sort(key=lambda term: term[0])
    return [Term(float(factor), arrival) for _, factor, arrival in terms if factor]
