"""Absences: which ranks are left out of which exchanges, where somebody knows that before.

The text form is ``RANK@EXCHANGES``, several joined by ``+``.  Exchanges count from 0: ``3@4`` is
one, ``3@4-9`` are six, ``3@4-`` all from then on, and ``3@0-/2`` every second one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from math import lcm
from typing import NamedTuple

_FORM = re.compile(r"(\d{1,9})@(\d{1,9})(?:(-)(\d{1,9})?(?:/(\d{1,9}))?)?", re.ASCII)
_LONGEST_PERIOD = 1000  #: exchanges that are looked at; strides beyond are rarer than that


class Absence(NamedTuple):
    """A rank and the exchanges that it is left out of.

    Attributes:
        rank: The rank.
        first: First exchange, counted from 0.
        last: The last one; None for all from the first on.
        stride: Distance from one of them to the next.
    """

    rank: int
    first: int
    last: int | None
    stride: int

    def covers(self, exchange: int) -> bool:
        """Return True if the rank is left out of an exchange."""
        is_over = self.last is not None and exchange > self.last
        return exchange >= self.first and not is_over and (exchange - self.first) % self.stride == 0


@lru_cache(maxsize=256)
def absences_in(text: str) -> tuple[Absence, ...]:
    """Return the absences in their text form; none in "".

    Raises:
        ValueError: if it has another form.
    """
    return tuple(_absence(part) for part in text.split("+")) if text else ()


def _absence(text: str) -> Absence:
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError(
            f"{text!r}, expected RANK@EXCHANGES, such as 3@4, 3@4-9, 3@4- for all from then on, or "
            "3@0-/2 for every second one; several joined by +"
        )
    rank, first, dash, last, stride = found.groups()
    made = Absence(
        rank=int(rank),
        first=int(first),
        last=(int(last) if last else None) if dash else int(first),
        stride=int(stride or 1),
    )
    if made.stride < 1 or (made.last is not None and made.last < made.first):
        raise ValueError(f"{text!r}: no exchange at all, expected one or more")
    return made


def turning_points(absences: Sequence[Absence]) -> set[int]:
    """Return exchanges among which is one for every set of ranks that are left out together."""
    edges = {0, *(each.first for each in absences)}
    edges |= {each.last + 1 for each in absences if each.last is not None}
    period = min(lcm(*(each.stride for each in absences)), _LONGEST_PERIOD)
    return {edge + number for edge in edges for number in range(period)}


def check_absences(absences: Sequence[Absence], world_size: int) -> None:
    """Refuse ranks that are not there, and a world in which every rank is left out at times.

    A rank that is always there has what those who come back need.

    Raises:
        ValueError: naming the rank.
    """
    named = {each.rank for each in absences}
    if named and max(named) >= world_size:
        raise ValueError(
            f"left_out: rank {max(named)} of {world_size}, expected 0 to {world_size - 1}"
        )
    if len(named) == world_size:
        raise ValueError(
            f"left_out: all {world_size} ranks are at some time, expected at least one that is in "
            "every exchange"
        )
