"""The compiled program of one rank: all acts of a run, in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dgc_topo.payload import Arrival
from dgc_topo.schedule import Transfer


@dataclass(frozen=True, slots=True, eq=False)
class Receive:
    """Act: post the receive of a message.

    Attributes:
        slot: Number of the message among the run's receives.
        transfer: The schedule's transfer.
        peer: Sending rank.
        tag: Number of the message at both ends; the next number is its rest's.
        num_bytes: Size; None if only the sender knows.
        lands: True if it is received at its place in the buffer.
        staged: True if it needs staging: its size is unknown, or it is on a GPU.
    """

    slot: int
    transfer: Transfer
    peer: int
    tag: int
    num_bytes: int | None
    lands: bool
    staged: bool


@dataclass(frozen=True, slots=True, eq=False)
class Send:
    """Act: pack a message, and post its send.

    Attributes:
        slot: Number of the message among the run's sends.
        chunk: First chunk.
        count: Number of chunks.
        peer: Receiving rank.
        tag: As of `Receive`.
        num_bytes: As of `Receive`.
        staged: As of `Receive`.
    """

    slot: int
    chunk: int
    count: int
    peer: int
    tag: int
    num_bytes: int | None
    staged: bool


@dataclass(frozen=True, slots=True, eq=False)
class Complete:
    """Act: wait for messages, and for the sends of the chunks that they change; then merge.

    Attributes:
        receives: Messages to wait for.
        sends: Messages that have to leave first.
        merged: Slots of the messages that have not landed at their places.
        staged: Those of *receives* that are staged.
    """

    receives: tuple[Receive, ...]
    sends: tuple[Send, ...]
    merged: tuple[int, ...]
    staged: tuple[Receive, ...]


@dataclass(frozen=True, slots=True, eq=False)
class ProgramStep:
    """One step of the schedule, with early acts for the next step.

    Attributes:
        index: The step's number in the whole schedule.
        acts: Receives, sends and merges, in order.
        receives: Receives of the step's messages, in the schedule's order; some may have been
            posted earlier.
        sends: Sends of the step's messages, likewise; the step is over when they have left.
        num_bytes: Bytes sent and received, if all sizes are known.
    """

    index: int
    acts: tuple[Receive | Send | Complete, ...]
    receives: tuple[Receive, ...]
    sends: tuple[Send, ...]
    num_bytes: tuple[int, int] | None


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """Everything that one rank does in a run.

    Attributes:
        steps: The steps in which the rank does something.
        num_receives: Number of messages to receive.
        num_sends: Number of messages to send.
        arrivals: By slot, the messages with a place in scratch memory; others land at their places
            in the buffer, or are staged.
    """

    steps: tuple[ProgramStep, ...]
    num_receives: int
    num_sends: int
    arrivals: Mapping[int, Arrival]
