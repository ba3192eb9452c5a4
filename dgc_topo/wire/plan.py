"""How entries are going to be coded: the choice, from the few numbers that decide sizes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dgc_topo.wire.coding import (
    HEADER_BYTES,
    MAX_CODE,
    MAX_RUN,
    VALUE_BYTES,
    IndexChoice,
    WireDtype,
    smallest,
)
from dgc_topo.wire.format import Header, WireError


class Coding(NamedTuple):
    """What is wanted of a message: the type of its values, and how to code indices."""

    wire_dtype: WireDtype
    choice: IndexChoice


class Plan(NamedTuple):
    """How entries are going to be coded, and what that takes."""

    header: Header
    escapes: int
    num_bytes: int  #: of the whole message


def plan(gaps: Tensor, length: int, coding: Coding) -> Plan:
    """Return how entries are coded best; on a GPU it waits for one number, seldom for two.

    Args:
        gaps: Of the entries, as `indices.gaps_of`.
        length: Elements of the run.
        coding: What is wanted.

    Raises:
        WireError: if the run is longer than 2**31 elements.
    """
    largest = int(gaps.max()) if len(gaps) else 0
    escapes = 0
    if largest > MAX_CODE:
        escapes = int(torch.div(gaps, MAX_CODE, rounding_mode="floor").sum())
    return plan_of(len(gaps), largest, escapes, length, coding)


def plan_of(count: int, largest: int, escapes: int, length: int, coding: Coding) -> Plan:
    """As `plan`, from the number of gaps, the largest one, and the escape codes they take.

    A largest gap of just 65535 is a code by itself: then no other takes an escape code either.
    """
    check_run(length)
    if largest <= MAX_CODE:
        escapes = 0
    value_bytes = VALUE_BYTES[coding.wire_dtype]
    encoding, body = smallest(coding.choice, value_bytes, length, count, largest, escapes)
    parameter = 0
    if encoding == "bit-packed":
        parameter = largest.bit_length()
    elif encoding == "run-length":
        parameter = int(escapes > 0)
    return Plan(Header(encoding, coding.wire_dtype, parameter), escapes, HEADER_BYTES + body)


def check_run(length: int) -> None:
    """Refuse a run whose relative indices do not fit.

    Raises:
        WireError: if *length* is above 2**31.
    """
    if length > MAX_RUN:
        raise WireError(
            f"wire: run of {length} elements in one sparse message, expected at most {MAX_RUN}; "
            "use a topology that cuts the buffer into more chunks"
        )
