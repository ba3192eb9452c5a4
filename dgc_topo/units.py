"""Numbers with units as people type them: ``100MiB``, ``1Gbit/s``, ``50us``.

(`dgc_topo.results.units` goes the other way.)  Sizes are bytes; kB, MB, GB are powers of 1000 and
KiB, MiB, GiB powers of 1024.  Case matters: a bit is not a byte.
"""

from __future__ import annotations

import math
import re

_PREFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}

_BYTES = {f"{prefix}B": factor for prefix, factor in (_PREFIXES | _BINARY).items()}
_RATES = {f"{unit}/s": factor for unit, factor in _BYTES.items()} | {
    f"{prefix}bit/s": factor / 8 for prefix, factor in _PREFIXES.items()
}
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}

_NUMBER = re.compile(r"\s*([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(.*?)\s*")


def bytes_from(text: str, name: str) -> float:
    """Return a size in bytes, 0 or more.

    Args:
        text: Such as ``100MiB`` or ``1.5 GB``.
        name: Where it was given, such as ``--bytes``; errors begin with it.

    Raises:
        ValueError: if it isn't a finite number with a unit, or is negative.
    """
    return _not_negative(text, name, _BYTES, "a size such as 100MiB")


def rate_from(text: str, name: str) -> float:
    """Return a bandwidth in bytes per second, above 0.

    Args:
        text: Such as ``125MB/s`` or ``1Gbit/s``.
        name: Where it was given; errors begin with it.

    Raises:
        ValueError: if it isn't a finite number with a unit, or is not above 0.
    """
    rate = _not_negative(text, name, _RATES, "a bandwidth such as 125MB/s or 1Gbit/s")
    if not rate:
        raise ValueError(f"{name} {text!r}: expected a bandwidth above 0")
    return rate


def seconds_from(text: str, name: str) -> float:
    """Return a duration in seconds, 0 or more.

    Args:
        text: Such as ``50us`` or ``1.2 ms``.
        name: Where it was given; errors begin with it.

    Raises:
        ValueError: if it isn't a finite number with a unit, or is negative.
    """
    return _not_negative(text, name, _SECONDS, "a time such as 50us")


def _not_negative(text: str, name: str, units: dict[str, float], expected: str) -> float:
    match = _NUMBER.fullmatch(text)
    listed = ", ".join(unit for unit in units if unit.isascii())
    if match is None:
        raise ValueError(f"{name} {text!r}: not a number with a unit, expected {expected}")
    number, unit = match.groups()
    if unit not in units:
        problem = f"unknown unit {unit!r}" if unit else "no unit"
        close = [known for known in units if unit and known.casefold() == unit.casefold()]
        hint = f" (did you mean {close[0]!r}?)" if len(close) == 1 else ""
        raise ValueError(f"{name} {text!r}: {problem}{hint}, expected {expected}; units: {listed}")
    value = float(number) * units[unit]
    if not 0 <= value < math.inf:
        size = "too large" if value > 0 else "negative"
        raise ValueError(f"{name} {text!r}: {size}, expected {expected}, 0 or more")
    return value
