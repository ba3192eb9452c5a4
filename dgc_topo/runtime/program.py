"""When each message of one rank may leave and arrive, worked out once per schedule.

A step's transfers read the state before the step.  That does not mean that a rank has to finish a
step before it begins the next one: a message may leave as soon as the chunks it carries have got
everything that earlier steps bring them, while other messages of that step are still on their way.
With a schedule of several parts side by side (`dgc_topo.schedule.beside`) the link then never
waits for a reduction, nor for the slowest message of a step.  But a rank that still sends to one
peer does not begin to send to another: both would take twice as long, and who waits for the first
would wait for nothing.  (Measured at 100 Mbit/s: a tree of 10 MB took 4.1 s that way among 4 ranks
and 6.6 s among 8, not 3.4 s and 5.2 s.)

A rank runs ahead by one step at most, so scratch memory and the drift between ranks stay bounded,
and an error can still say in which step a rank was stuck.

No cycle of ranks can wait for each other: a rank posts all sends of a step before it waits for
anything of that step, and all its receives before it waits for one of these sends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dgc_topo.schedule import Transfer


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One rank's transfers in one step."""

    index: int
    sends: tuple[Transfer, ...]
    receives: tuple[Transfer, ...]  #: in the order listed


class Message(NamedTuple):
    """A transfer and the tag by which both ends know it; the next tag is its continuation's."""

    transfer: Transfer
    tag: int


@dataclass(frozen=True, slots=True)
class Merge:
    """Receives of one step whose runs of chunks overlap, directly or by way of each other.

    Attributes:
        receives: In the order in which they apply.
        in_place: Whether the (only) message replaces chunks that nothing else touches in this
            step, so that it may be received where it belongs.
        early: Whether it may be received while the step before is still going on.
        competes: Whether it comes from another rank than what the step before brings, so that it
            would take its part of the link from that.
        awaits: Which of the step's sends read these chunks, and so come first.
        releases: Which of the next step's sends may leave once this is merged, early.
    """

    receives: tuple[Message, ...]
    in_place: bool
    early: bool
    competes: bool
    awaits: tuple[int, ...]
    releases: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ProgramStep:
    """One rank's messages in one step.

    Attributes:
        index: The step's number in the whole schedule.
        sends: Messages to send.
        merges: What to wait for and merge, in this order.
        releases: Which of the *next* step's sends may leave at once: they carry nothing that this
            step changes.
        is_stream: Whether all messages come from one rank and none waits for a send.  Only then
            may receives be posted a few at a time: in another order than the sender's, or while
            holding back a send, that could make a cycle of ranks wait for each other; and it
            could hide who is silent.
    """

    index: int
    sends: tuple[Message, ...]
    merges: tuple[Merge, ...]
    releases: tuple[int, ...]
    is_stream: bool


def program_for(steps: Sequence[PlannedStep]) -> tuple[ProgramStep, ...]:
    """Return when the messages of one rank's *steps* may leave and arrive."""
    nothing = PlannedStep(-1, (), ())
    around = [nothing, *steps, nothing]
    sent, received = _Tags(), _Tags()
    program = []
    for before, step, after in zip(around, around[1:], around[2:], strict=False):
        sends = tuple(Message(t, sent.next(t.dst)) for t in step.sends)
        groups = _overlapping([Message(t, received.next(t.src)) for t in step.receives])
        *releases, at_once = _releases(groups, after.sends, {t.dst for t in step.sends})
        merges = tuple(
            _merge(group, released, before, step)
            for group, released in zip(groups, releases, strict=True)
        )
        program.append(ProgramStep(step.index, sends, merges, at_once, _is_stream(merges)))
    return tuple(program)


class _Tags:
    """Numbers the messages between two ranks in a run alike on both ends.

    Every message takes two tags, the second for what does not fit: with one tag for both, the
    rest of a message could be taken for the head of the next one.
    """

    def __init__(self) -> None:
        self._used: Counter[int] = Counter()

    def next(self, peer: int) -> int:
        tag = self._used[peer]
        self._used[peer] += 2
        return tag


def _overlapping(receives: Sequence[Message]) -> list[tuple[Message, ...]]:
    """Split receives into groups that share no chunk, ordered by their first members."""
    by_chunk = sorted(range(len(receives)), key=lambda place: receives[place].transfer.chunk)
    groups: list[list[int]] = []
    end = 0
    for place in by_chunk:
        transfer = receives[place].transfer
        if transfer.chunk >= end:
            groups.append([])
        groups[-1].append(place)
        end = max(end, transfer.chunk_end)
    in_order = sorted(sorted(group) for group in groups)
    return [tuple(receives[place] for place in group) for group in in_order]


def _releases(
    groups: Sequence[tuple[Message, ...]], sends: Sequence[Transfer], busy: set[int]
) -> list[tuple[int, ...]]:
    """Return per group which *sends* it is the last to hold up; and then, those that none does.

    Those to other peers than the *busy* ones, whom the rank sends something before, are left out:
    they follow when that is over.
    """
    releases: list[list[int]] = [[] for _ in range(len(groups) + 1)]
    spans = [_span(group) for group in groups]
    for place, send in enumerate(sends):
        if busy - {send.dst}:
            continue
        holding = [number for number, span in enumerate(spans) if _meet(send, span)]
        releases[max(holding, default=-1)].append(place)
    return [tuple(places) for places in releases]


def _merge(
    group: tuple[Message, ...], releases: tuple[int, ...], before: PlannedStep, step: PlannedStep
) -> Merge:
    span, first = _span(group), group[0].transfer
    awaits = tuple(place for place, send in enumerate(step.sends) if _meet(send, span))
    in_place = len(group) == 1 and first.keep == 0 and first.weight == 1 and not awaits
    # Only what lands in place can disturb the step before, by coming while it still goes on.
    early = not in_place or not any(_meet(t, span) for t in (*before.sends, *before.receives))
    sources = {message.transfer.src for message in group}
    competes = bool({t.src for t in before.receives} - sources)
    return Merge(group, in_place, early, competes, awaits, releases)


def _is_stream(merges: Sequence[Merge]) -> bool:
    one_by_one = all(len(merge.receives) == 1 and not merge.awaits for merge in merges)
    return one_by_one and len({merge.receives[0].transfer.src for merge in merges}) == 1


def _span(group: Sequence[Message]) -> tuple[int, int]:
    """Return the first chunk that a group covers and one past the last; it covers all between."""
    transfers = [message.transfer for message in group]
    return min(t.chunk for t in transfers), max(t.chunk_end for t in transfers)


def _meet(transfer: Transfer, span: tuple[int, int]) -> bool:
    return transfer.chunk < span[1] and span[0] < transfer.chunk_end
