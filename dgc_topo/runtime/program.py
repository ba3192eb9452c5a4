"""The program of one rank: everything that it does in a run, in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dgc_topo.payload import Arrival
from dgc_topo.schedule import Transfer


@dataclass(frozen=True, slots=True, eq=False)
class Receive:
    """Act: post the receive of a message.

    Attributes:
        slot: Its number among the run's receives.
        transfer: The schedule's transfer.
        peer: Sending rank.
        tag: Number by which both ends know it; the next one is its continuation's.
        num_bytes: Size; None if only the sender knows.
        lands: True if it is received where it belongs.
        staged: True if it takes more than its bytes in CPU memory.
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
        slot: Its number among the run's sends.
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
    """Act: wait for messages and for the sends that read what they change, then merge them.

    Attributes:
        receives: Messages to wait for.
        sends: Messages that have to leave first.
        merged: Slots of the messages that have not landed where they belong.
        staged: Those of *receives* that are.
    """

    receives: tuple[Receive, ...]
    sends: tuple[Send, ...]
    merged: tuple[int, ...]
    staged: tuple[Receive, ...]


@dataclass(frozen=True, slots=True, eq=False)
class ProgramStep:
    """One step of the schedule, with what may already be done in it for the next one.

    Attributes:
        index: The step's number in the whole schedule.
        acts: Receives, sends and merges, in their order.
        receives: The step's messages as the schedule lists them, whenever they are posted.
        sends: The same; the step is over when they have left.
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
        arrivals: By slot, the messages that are received in scratch memory, which is set aside for
            them; others land where they belong, or are staged.
    """

    steps: tuple[ProgramStep, ...]
    num_receives: int
    num_sends: int
    arrivals: Mapping[int, Arrival]
