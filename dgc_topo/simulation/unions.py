"""Growth of sparse unions: contributors of each chunk, and the entries in their union."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dgc_topo.arrays import FloatArray, IntArray

#: Function from numbers of contributors, any shape, to entries in the union of their supports.
Growth = Callable[[IntArray], FloatArray]


def growth_of(length: int, entries: float, union_exponent: float | None) -> Growth:
    """Return `power_growth`, or `independent_growth` without an exponent."""
    if union_exponent is None:
        return independent_growth(length, entries)
    return power_growth(length, entries, union_exponent)


def power_growth(length: int, entries: float, union_exponent: float) -> Growth:
    """Return the union model ``U(c) = min(length, entries * c ** union_exponent)``.

    Args:
        length: Number of elements of the tensor.
        entries: Entries that one contributor sends.
        union_exponent: 1 for disjoint supports, 0 for identical ones.
    """
    require(0 <= union_exponent <= 1, f"union_exponent {union_exponent}", "0 to 1")

    def union(contributors: IntArray) -> FloatArray:
        grown: FloatArray = entries * np.power(contributors.astype(np.float64), union_exponent)
        grown[contributors == 0] = 0.0  # 0 ** 0 is 1
        return np.asarray(np.minimum(grown, length), np.float64)

    return union


def independent_growth(length: int, entries: float) -> Growth:
    """Return the union model of independent supports, ``U(c) = L * (1 - (1 - k/L) ** c)``.

    Args:
        length: Number of elements of the tensor (L).
        entries: Entries that one contributor sends (k).
    """

    def union(contributors: IntArray) -> FloatArray:
        # expm1 and log1p keep the digits that 1 - (1 - tiny) would lose.
        missing = np.log1p(-entries / length) if entries < length else -np.inf
        grown = -length * np.expm1(np.where(contributors > 0, contributors, 1) * missing)
        return np.asarray(np.where(contributors > 0, grown, 0.0), np.float64)

    return union


def recorded_growth(length: int, entries: float, points: Sequence[tuple[int, float]]) -> Growth:
    """Return the union model of a recorded run, interpolated.

    The model has straight lines between the points on logarithmic axes.  The last line is continued
    beyond the points (with a single point, the line from ``(1, 1)``).  A union never has fewer
    entries than one contributor.

    Args:
        length: Number of elements of the tensor.
        entries: Entries that one contributor sends.
        points: Pairs (contributors, union of their entries over one's), both rising, above 1.

    Raises:
        ValueError: if the points do not rise, or grow faster than disjoint supports would.
    """
    ranks, grown = np.log(np.array([(1, 1.0), *points], np.float64).T)
    slopes = np.diff(grown) / np.diff(ranks) if (np.diff(ranks) > 0).all() else np.array([np.nan])
    holds = bool(((slopes >= 0) & (slopes <= 1)).all())
    require(holds, f"points {tuple(points)}", "rising contributors, growth of 1 to as many")

    def union(contributors: IntArray) -> FloatArray:
        at = np.log(np.maximum(contributors, 1))
        beyond = np.maximum(at - ranks[-1], 0.0) * (slopes[-1] if len(slopes) else 1.0)
        factor = np.exp(np.interp(at, ranks, grown) + beyond)
        return np.asarray(np.where(contributors > 0, np.minimum(entries * factor, length), 0.0))

    return union


def kept_growth(growth: Growth, most: int, kept: float) -> Growth:
    """Return the model of sums of which no more than *kept* entries are sent when complete.

    Args:
        growth: Model of the unions.
        most: Number of all contributors.
        kept: Entries that stay in a complete sum.
    """

    def union(contributors: IntArray) -> FloatArray:
        grown = growth(contributors)
        return np.where(contributors == most, np.minimum(grown, kept), grown)

    return union


def require(holds: bool, what: str, expected: str) -> None:
    """Refuse an impossible size.

    Raises:
        ValueError: unless it *holds*.
    """
    if not holds:
        raise ValueError(f"sizes: {what}, expected {expected}")
