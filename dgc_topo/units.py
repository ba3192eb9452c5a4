"""Numbers with units, read and printed: ``100MiB``, ``1Gbit/s``, ``50us``, ``0.1%``.

Sizes are bytes; kB, MB, GB are powers of 1000 and KiB, MiB, GiB powers of 1024.  Case matters: a
bit (b) is not a byte (B).  A plain number is bytes, or bytes per second.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

_PREFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_ALL_PREFIXES = _PREFIXES | {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_BITS_PER_BYTE = 8

_BYTES = {f"{prefix}B": factor for prefix, factor in _ALL_PREFIXES.items()}
_BITS = {
    f"{prefix}{bit}": factor / _BITS_PER_BYTE
    for bit in ("bit", "b")
    for prefix, factor in _ALL_PREFIXES.items()
}
_RATES = {
    f"{unit}{per}": factor
    for unit, factor in (_BYTES | _BITS).items()
    for per in ("/s", "ps")
    if not unit.endswith("t") or per == "/s"  # nobody writes bitps
}
_LISTED_RATES = (*(f"{unit}/s" for unit in _BYTES), *(f"{prefix}bit/s" for prefix in _PREFIXES))
# There are two letters for micro, the sign and the Greek one; keyboards have either.
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "\u00b5s": 1e-6, "\u03bcs": 1e-6, "ns": 1e-9}

_BYTES_SHOWN = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))
_SECONDS_SHOWN = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))

#: Rates that the lab's links can have.
MIN_RATE_BITS_PER_S = 1e6
#: The kernel is told bytes per second in 32 bits.
MAX_RATE_BITS_PER_S = 8 * (2**32 - 1)
_UNSHAPED = "unshaped"

_DIGITS = "[0-9]+(?:_[0-9]+)*"
_NUMBER = re.compile(
    rf"\s*([+-]?(?:{_DIGITS}(?:\.(?:{_DIGITS})?)?|\.{_DIGITS})(?:[eE][+-]?[0-9]+)?)"
    r"\s*([^\W\d_].*?)?\s*"
)


@dataclass(frozen=True, slots=True)
class _Quantity:
    """Kind of quantity: its units, those that errors list, and an example."""

    units: Mapping[str, float]
    listed: tuple[str, ...]
    expected: str
    plain: float | None = None  #: factor of a number without a unit, if it may have none


_SIZE = _Quantity(_BYTES, tuple(_BYTES), "a size such as 100MiB", plain=1.0)
_RATE = _Quantity(_RATES, _LISTED_RATES, "a bandwidth such as 125MB/s or 1Gbit/s", plain=1.0)
_COUNTS = {"k": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}
_COUNT = _Quantity(_COUNTS, tuple(_COUNTS), "a number such as 86M", plain=1.0)
_TIME = _Quantity(_SECONDS, ("s", "ms", "us", "ns"), "a time such as 50us")


def bytes_from(text: str, name: str) -> float:
    """Return a size in bytes, 0 or more.

    Args:
        text: Such as ``100MiB``, ``1.5 GB`` or ``1024``.
        name: Where it was given, such as ``--bytes``; errors begin with it.

    Raises:
        ValueError: if it isn't a finite number of bytes, or is negative.
    """
    return _not_negative(text, name, _SIZE)


def rate_from(text: str, name: str) -> float:
    """Return a bandwidth in bytes per second, above 0.

    Args:
        text: Such as ``125MB/s``, ``1Gbit/s`` or ``1Gbps``; bytes per second without a unit.
        name: Where it was given; errors begin with it.

    Raises:
        ValueError: if it isn't a finite number with such a unit, or is not above 0.
    """
    rate = _not_negative(text, name, _RATE)
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
    return _not_negative(text, name, _TIME)


def count_from(text: str, name: str) -> int:
    """Return a whole number, 1 or more.

    Args:
        text: Such as ``86M``, ``1.3B`` or ``1_000_000``.
        name: Where it was given; errors begin with it.

    Raises:
        ValueError: if it isn't a finite number, or is below 1.
    """
    count = round(_not_negative(text, name, _COUNT))
    if count < 1:
        raise ValueError(f"{name} {text!r}: expected a number such as 86M, at least 1")
    return count


def fraction_from(text: str, name: str) -> float:
    """Return a fraction, of any range.

    Args:
        text: Such as ``0.001`` or ``0.1%``.
        name: Where it was given; errors begin with it.

    Raises:
        ValueError: if it isn't a number.
    """
    number, percent, rest = text.strip().partition("%")
    try:
        value = float(number)
    except ValueError:
        rest = "no number"
    if rest:
        raise ValueError(f"{name} {text!r}: expected a fraction such as 0.001 or 0.1%")
    if not percent or not math.isfinite(value):
        return value
    return float(Decimal(number) / 100)  # 0.7% is 0.007, which 0.7 / 100 is not


def _not_negative(text: str, name: str, quantity: _Quantity) -> float:
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise ValueError(f"{name} {text!r}: not a number with a unit, expected {quantity.expected}")
    number, unit = match.groups()
    factor = quantity.units.get(unit) if unit else quantity.plain
    if factor is None:
        problem = f"unknown unit {unit!r}{_hint(number, unit, quantity)}" if unit else "no unit"
        raise ValueError(
            f"{name} {text!r}: {problem}, expected {quantity.expected}; "
            f"units: {', '.join(quantity.listed)}"
        )
    value = float(number) * factor
    if not 0 <= value < math.inf:
        size = "too large" if value > 0 else "negative"
        raise ValueError(f"{name} {text!r}: {size}, expected {quantity.expected}, 0 or more")
    return abs(value)  # of -0


def _hint(number: str, unit: str, quantity: _Quantity) -> str:
    """Return a hint about an unknown unit: the units that it may mean."""
    close = _alike(unit, quantity.units)
    bits = _alike(unit, _BITS)
    if quantity is _SIZE and bits and (unit in _BITS or not close):
        prefix = bits[0].removesuffix("bit").removesuffix("b")
        as_bytes = f"{float(number) / _BITS_PER_BYTE:.15g}{prefix}B"
        return f" (bits: did you mean {as_bytes}, so many bytes, or {number}{prefix}B?)"
    # A rate in the wrong case may mean bits or bytes, so both are named.
    named = [f"{known!r}{_kind(known) if len(close) > 1 else ''}" for known in close]
    return f" (did you mean {' or '.join(named)}?)" if named else ""


def _alike(unit: str, units: Mapping[str, float]) -> list[str]:
    """Return the units that differ from *unit* in case alone.

    "b" and "B" are told apart by who uses capitals at all: ``Kb`` is bits, ``kb`` may be either.
    """
    alike = [known for known in units if known.casefold() == unit.casefold()]
    if unit.islower() or unit.isupper():
        return alike
    return [known for known in alike if ("B" in known) == ("B" in unit)]


def _kind(unit: str) -> str:
    return " (bytes)" if "B" in unit else " (bits)"


def bytes_text(num_bytes: float) -> str:
    """Return a size in decimal units, such as ``1.31 MB``."""
    return _scaled(num_bytes, _BYTES_SHOWN)


def seconds_text(seconds: float) -> str:
    """Return a duration, such as ``12.3 ms``."""
    return _scaled(seconds, _SECONDS_SHOWN)


def times_text(factor: float) -> str:
    """Return a factor, such as ``41.3x``."""
    return f"{three_digits(factor)}x"


def percent_text(fraction: float) -> str:
    """Return a fraction as a percentage without trailing zeros, such as ``0.1 %``."""
    return f"{100 * fraction:.4g} %"


def three_digits(value: float) -> str:
    """Return *value* with three significant digits, never in exponent form."""
    if not math.isfinite(value):
        return str(value)
    magnitude = abs(value)
    decimals = 0 if magnitude >= 99.95 else 1 if magnitude >= 9.995 else 2  # noqa: PLR2004 (digits)
    return f"{value:,.{decimals}f}"


def _scaled(value: float, units: tuple[tuple[float, str], ...]) -> str:
    if not value:
        return next(f"0 {unit}" for size, unit in units if size == 1)
    # 0.9995 of a unit would be printed as 1.00 of it.
    size, unit = next(
        ((size, unit) for size, unit in units if abs(value) >= 0.9995 * size), units[-1]
    )
    return f"{value:.0f} B" if unit == "B" else f"{three_digits(value / size)} {unit}"


def check_rate(rate_bits_per_s: float | None, where: str) -> None:
    """Refuse a rate that the kernel cannot keep; None (unshaped) is fine."""
    if rate_bits_per_s is None:
        return
    if not MIN_RATE_BITS_PER_S <= rate_bits_per_s <= MAX_RATE_BITS_PER_S:
        raise ValueError(
            f"{where}: rate {rate_text(rate_bits_per_s)}, expected "
            f"{rate_text(MIN_RATE_BITS_PER_S)} to {rate_text(MAX_RATE_BITS_PER_S)}, or unshaped"
        )


def link_rate_from(text: str, name: str) -> float | None:
    """Return the rate of links in bit/s; None is ``unshaped``.

    Args:
        text: Such as ``100 Mbit/s``; the inverse of `rate_text`.
        name: What it is, for errors.

    Raises:
        ValueError: if it isn't a bandwidth with a unit, or one that the lab cannot keep.
    """
    if text.strip() == _UNSHAPED:
        return None
    rate = 8 * rate_from(text, name)
    check_rate(rate, name)
    return rate


def rate_text(rate_bits_per_s: float | None) -> str:
    """Return a rate as people write it, such as ``100 Mbit/s``; None is ``unshaped``."""
    if rate_bits_per_s is None:
        return _UNSHAPED
    for factor, unit in ((1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s")):
        if abs(rate_bits_per_s) >= factor:
            return f"{rate_bits_per_s / factor:.4g} {unit}"
    return f"{rate_bits_per_s:.4g} bit/s"
