"""Payloads: the buffers that schedules move: dense, sparse, ternary, or several together."""

from dgc_topo.payload.base import (
    MIXTURE,
    SUM,
    Arrival,
    BoundsOf,
    Payload,
    check_goal,
    equal_bounds,
    passes_of,
)
from dgc_topo.payload.bundle import BundlePayload
from dgc_topo.payload.dense import DensePayload
from dgc_topo.payload.placed import PlacedPayload
from dgc_topo.payload.reselection import Quotas
from dgc_topo.payload.sparse import SparsePayload
from dgc_topo.payload.ternary import Ternary, TernaryPayload
from dgc_topo.payload.union import Entries
from dgc_topo.wire.format import WireError

__all__ = [
    "MIXTURE",
    "SUM",
    "Arrival",
    "BoundsOf",
    "BundlePayload",
    "DensePayload",
    "Entries",
    "Payload",
    "PlacedPayload",
    "Quotas",
    "SparsePayload",
    "Ternary",
    "TernaryPayload",
    "WireError",
    "check_goal",
    "equal_bounds",
    "passes_of",
]
