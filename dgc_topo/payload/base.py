"""The `Payload` protocol: one rank's buffer, as the schedule sees it.

A schedule speaks of chunk *numbers*.  The payload decides where a chunk begins and ends, packs a
run of chunks into a message, and merges the messages of one step.  The law of merging, for every
kind of payload: the order in which the step lists the arrivals decides which terms are added (see
`dgc_topo.schedule.order`); the weighted terms are then added **in rank order, the receiver's own
term at its own rank's place**.  Ranks that add the same terms therefore end bit-identical, whoever
received what from whom.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Generic, NamedTuple, Protocol, TypeVar

from torch import Tensor, device

from dgc_topo.schedule import Goal, Transfer, unroll
from dgc_topo.schedule.completion import Role

#: Function from ``(length, num_chunks)`` to the num_chunks + 1 sorted offsets of the chunks, from 0
#: to length.  All ranks must get the same offsets.
BoundsOf = Callable[[int, int], Sequence[int]]

#: Goals for a payload that has a meaning only as the sum of all ranks' parts.
SUM: frozenset[Goal] = frozenset({"all-reduce"})

#: Goals for a buffer whose weighted averages have a meaning, too.  Column-stochastic mixing is not
#: among them: it keeps the total but not the averages, so the buffer must carry a weight
#: (push-sum).
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

    The executor calls `cut` once; then, for every step, `pack` for each message to send and `merge`
    with the arrivals; and `finish` once.  Arrivals that share chunks are merged in one call, after
    all messages that carry those chunks have left.  Arrivals for other chunks may be merged earlier
    or later, and their chunks packed for the next step meanwhile.

    Attributes:
        made_with: Settings of its maker by key, as JSON values; the same on every rank.
    """

    made_with: Mapping[str, object]

    @property
    def device(self) -> device:
        """Device of the buffer; arriving messages have to be there, too."""

    @property
    def layout(self) -> Hashable:
        """Key of the sizes and landing places of messages: with *num_chunks* it determines both."""

    @property
    def goals(self) -> frozenset[Goal]:
        """Goals of the schedules after which this payload has a meaning."""

    def cut(self, num_chunks: int, *, agree: bool = True, role: Role | None = None) -> None:
        """Fix the chunk boundaries, before a run.

        Args:
            num_chunks: Number of chunks in the schedule.
            agree: True if all ranks are to end with the same bits, as in an all-reduce; gossip
                only brings them nearer to each other.
            role: This rank's part in the run, for payloads that take something out of the sum.

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

        A message that claims to be longer is refused before memory is allocated for it.
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

        It is called only for a message that replaces these chunks, if no other message overlaps it.

        Returns:
            1-D contiguous uint8 tensor in the buffer's memory, as long as the message; None if the
            buffer does not hold messages as they travel.
        """

    def merge(self, arrivals: Sequence[Arrival], rank: int) -> None:
        """Apply the arrivals of one step at *rank*: all, or all for some of the chunks.

        Args:
            arrivals: Messages of one step, as listed in it, valid during the call only and not to
                be written to; overlapping runs are allowed.
            rank: The receiver, which decides the place of its own value in the sum.

        Raises:
            ValueError: if a message does not fit its run of chunks.
        """

    def finish(self) -> None:
        """End a run; if ranks are to agree, round the result as messages are rounded."""


def passes_of(payload: Payload) -> Iterator[Payload]:
    """Yield the payloads to run, one after the other, in place of one: most often just itself.

    A payload that takes several runs of a schedule has a method ``passes`` that yields that of each
    run; what it has become is used before the next one.
    """
    # An isinstance with a protocol would take longer than all else before a short run.
    passes: Callable[[], Iterator[Payload]] | None = getattr(payload, "passes", None)
    return iter((payload,)) if passes is None else passes()


class Term(NamedTuple, Generic[A]):
    """One addend of a merged run: ``coefficient * arrival``, or of the receiver's own value.

    Attributes:
        coefficient: Its weight.
        arrival: The arrival; None is the receiver's own value.
    """

    coefficient: float
    arrival: A | None


def check_goal(where: str, payload: Payload, goal: Goal) -> None:
    """Refuse, before anything is sent, a schedule after which *payload* would have no meaning.

    Raises:
        ValueError: naming *where*, the schedule's goal, and the goals that the payload accepts.
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
    """Return offsets of *num_chunks* equal slices: chunk c ends at ``(c+1)*length//n``.

    Raises:
        ValueError: if *num_chunks* is below 1.
    """
    if num_chunks < 1:
        raise ValueError(f"payload: cut into {num_chunks} chunks, expected at least 1")
    return [chunk * length // num_chunks for chunk in range(num_chunks + 1)]


def runs(arrivals: Sequence[A]) -> Iterator[tuple[int, int, list[A]]]:
    """Split the chunks that arrivals cover into runs, wherever an arrival begins or ends.

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
    """Return the terms to add, in this order, to get the new value of a run of chunks.

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
