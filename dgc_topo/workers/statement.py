"""The `Statement` of a rank: who it is, and what it is about to do."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any

import torch

from dgc_topo.runtime.framing import MARK
from dgc_topo.wire.format import VERSION
from dgc_topo.workers.machine import machine_id
from dgc_topo.workers.seat import Seat


@dataclass(frozen=True, slots=True)
class Statement:
    """A rank's description of itself.

    Attributes:
        seat: Its seat, as its launcher told it.
        machine: Name of its machine, which no other has.
        gpus: Unique names of the GPUs that it sees, by number.
        settings: Values that have to be the same on every rank, by key.
        ticket: Random text that tells it from another process that claims the same rank.
        fault: Reason why it does not come; None if it does.
    """

    seat: Seat
    machine: str
    gpus: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    ticket: str = field(default_factory=lambda: secrets.token_hex(8))
    fault: str | None = None

    def to_json(self) -> str:
        """Return it as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: bytes) -> Statement:
        """Return the statement that `to_json` wrote."""
        fields = json.loads(text)
        seat = Seat(**fields.pop("seat"))
        return cls(seat=seat, gpus=tuple(fields.pop("gpus")), **fields)


def statement_of(seat: Seat, gpus: Sequence[str], settings: Mapping[str, Any]) -> Statement:
    """Return this process's statement, versions included.

    Another torch may round otherwise, and speak otherwise to its peers: builds of one release are
    taken as equal, releases are not.
    """
    versions = {
        "version of dgc-topo": metadata.version("dgc-topo"),
        "version of the wire format": [VERSION, MARK],
        "version of torch": torch.__version__.partition("+")[0],
    }
    return Statement(seat, machine_id(), tuple(gpus), {**versions, **settings})
