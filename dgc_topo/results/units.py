"""Numbers with their units, short enough for a table."""

from __future__ import annotations

from math import isfinite

_BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))
_SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def bytes_text(num_bytes: float) -> str:
    """Return a size in decimal units, such as ``1.31 MB``."""
    return _scaled(num_bytes, _BYTES)


def seconds_text(seconds: float) -> str:
    """Return a duration, such as ``12.3 ms``."""
    return _scaled(seconds, _SECONDS)


def times_text(factor: float) -> str:
    """Return a factor, such as ``41.3x``."""
    return f"{three_digits(factor)}x"


def percent_text(fraction: float) -> str:
    """Return a fraction as a percentage without trailing zeros, such as ``0.1 %``."""
    return f"{100 * fraction:.4g} %"


def three_digits(value: float) -> str:
    """Return *value* with three significant digits, never in exponent form."""
    if not isfinite(value):
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
