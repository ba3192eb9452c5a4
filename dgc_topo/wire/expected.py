"""Expected bits of gaps between entries that may lie anywhere in their run, each place alike."""

from __future__ import annotations

import numpy as np

from dgc_topo.arrays import FloatArray
from dgc_topo.wire.limits import MAX_CODE, MAX_RUN, MAX_WIDTH

_ESCAPE_TERMS = 100  # of a sum; entries per code are then enough for terms below e**-14


def expected_width(length: FloatArray, entries: FloatArray) -> FloatArray:
    """Return the bits of the largest gap: one for each power of 2 that it reaches."""
    gaps = np.exp2(np.arange(MAX_RUN.bit_length() - 1)).reshape(-1, *[1] * length.ndim)
    reaches = _gap_reaches(gaps, length, entries)
    with np.errstate(divide="ignore"):  # log of 0 where every gap reaches so far
        none = np.maximum(entries, 1.0) * np.log1p(-reaches)
    return np.asarray(-np.expm1(none).sum(axis=0), np.float64)


def expected_escapes(length: FloatArray, entries: FloatArray) -> FloatArray:
    """Return the escape codes of all gaps: one for each multiple of 65535 that a gap reaches.

    A sum over the multiples; where it has many terms that fall slowly, by Euler and Maclaurin.
    """
    chances = np.zeros(length.shape)
    for times in range(1, _ESCAPE_TERMS + 1):
        reaches = _gap_reaches(float(times * MAX_CODE), length, entries)
        if not reaches.any():
            break
        chances += reaches
    most = length / MAX_CODE
    slow = (most > _ESCAPE_TERMS) & (entries > 0) & (entries < most * 14 / _ESCAPE_TERMS)
    smooth = most / (entries + 1) - 0.5 + entries / (12 * np.maximum(most, 1.0))
    return entries * np.where(slow, smooth, chances)


def expected_rice_bits(length: FloatArray, entries: FloatArray) -> FloatArray:
    """Return the bits of a Rice-coded gap, on average, low bits and quotient.

    A message takes the number of low bits that suits it best; here the best on average does.
    """
    mean = (length - entries) / (entries + 1)
    guess = np.floor(np.log2(np.maximum(np.log(2) * mean, 1.0)))
    tries = [np.clip(guess + step, 0, MAX_WIDTH) for step in (-1, 0, 1)]
    bits = [low + 1 + _expected_quotient(low, length, entries) for low in tries]
    return np.asarray(np.minimum.reduce(bits), np.float64)


def _expected_quotient(low: FloatArray, length: FloatArray, entries: FloatArray) -> FloatArray:
    """Return the mean of ``gap >> low``: by Euler and Maclaurin the sum of chances to reach so far.

    Without low bits it is the mean gap itself.
    """
    share = np.exp2(low) / np.maximum(length - (entries - 1) / 2, 1.0)
    together = entries * share
    cubic = together * (entries - 1) * (entries - 2) * share**2 / 720
    smooth = 1 / ((entries + 1) * share) - 0.5 + together / 12 - cubic
    mean = (length - entries) / (entries + 1)
    return np.where(low > 0, np.maximum(smooth, 0.0), mean)


def _gap_reaches(gap: float | FloatArray, length: FloatArray, entries: FloatArray) -> FloatArray:
    """Return the probability that at least *gap* elements without an entry precede a given entry.

    Exactly ``prod(1 - gap / (length - i) for i in range(entries))``; here every factor is the one
    in the middle.
    """
    room = length - (entries - 1) / 2
    none = np.clip(1 - gap / np.maximum(room, 1.0), 0.0, 1.0)
    chance = np.where(entries > 0, none ** np.maximum(entries, 1e-300), 0.0)
    return np.where(gap <= length - entries, chance, 0.0)
