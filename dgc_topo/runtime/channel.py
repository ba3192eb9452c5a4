"""The messages of one step, as a transport sees them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from dgc_topo.runtime.failure import Place

#: A message whose size only the sender knows travels with an int64 that tells it.
LENGTH_BYTES = 8


class Outgoing(NamedTuple):
    """A message to send; *num_bytes* is None if the receiver does not know the size."""

    peer: int
    message: Tensor
    num_bytes: int | None


class Incoming(NamedTuple):
    """A message to receive; *num_bytes* is None if only the sender knows the size."""

    peer: int
    num_bytes: int | None
    most_bytes: int | None = None  #: what it takes at most, if that is known


class Exchanged(NamedTuple):
    """What a step's exchange returns."""

    messages: list[Tensor]  #: one per `Incoming`, 1-D uint8, valid until the next exchange
    wait_s: float  #: seconds spent waiting for peers


class Channel(Protocol):
    """Moves all messages of one rank's step at once."""

    def exchange(
        self,
        place: Place,
        receives: Sequence[Incoming],
        sends: Iterable[Outgoing],
        device: torch.device,
    ) -> Exchanged:
        """Return when every message of the step has been sent and received.

        Several messages between the same two ranks are matched by their order.

        Args:
            place: Topology and step, for errors.
            receives: Posted before any send: over Gloo the other order halves the speed of an
                exchange.
            sends: Messages to send, made one by one.
            device: Where the received messages have to be.

        Raises:
            PeerError: if a peer is lost, or the time-out passes.
        """


def wire_bytes(message_bytes: int, *, sized: bool) -> int:
    """Return the bytes handed to the backend for a message whose size both ends know or not."""
    return message_bytes if sized else message_bytes + LENGTH_BYTES
