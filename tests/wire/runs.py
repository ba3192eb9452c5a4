"""Entries of runs to encode: at edges, in clusters, at random places."""

import numpy as np
from hypothesis import strategies as st

from dgc_topo.wire.limits import MAX_RUN

#: Where 16-bit codes, whole bytes, packed groups and int32 have their edges.
EDGES = [0, 1, 2, 7, 8, 9, 63, 64, 65, 65_534, 65_535, 65_536, 131_071, 2**20, 2**31 - 1, 2**31]


@st.composite
def runs(draw: st.DrawFn) -> tuple[int, int, list[int]]:
    """Return start and length of a run, and relative indices of entries in it."""
    length = draw(st.sampled_from(EDGES) | st.integers(0, 300))
    if not length:
        return draw(st.integers(0, 2**40)), 0, []
    near_edges = [edge - back for edge in EDGES for back in (1, 2) if 0 <= edge - back < length]
    places = st.integers(0, length - 1) | st.sampled_from(near_edges)
    indices = draw(st.sets(places, max_size=40))
    if draw(st.booleans()):  # side by side
        first = draw(st.integers(0, length - 1))
        indices |= set(range(first, min(length, first + draw(st.integers(0, 70)))))
    return draw(st.integers(0, 2**40)), length, sorted(indices)


@st.composite
def clusters(draw: st.DrawFn) -> np.ndarray:
    """Return gaps over several decades, as between entries of real gradients; up to 2**24."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    count = draw(st.sampled_from([1, 2, 30, 200, 2047, 2049, 20_000]))
    largest = draw(st.sampled_from([0, 1, 4, 12, 16, 17, 24] if count < 3000 else [0, 4, 16]))
    gaps = (2 ** (largest * rng.random(count) ** draw(st.integers(1, 4)))).astype(np.int64) - 1
    return gaps[np.cumsum(gaps + 1) <= MAX_RUN - 40]


def distinct(generator: np.random.Generator, length: int, count: int) -> np.ndarray:
    """Return *count* ascending numbers below *length*, every set of them alike."""
    if 4 * count > length:
        return np.sort(generator.permutation(length)[:count])
    found = np.empty(0, np.int64)
    while len(found) < count:
        found = np.unique(np.append(found, generator.integers(0, length, 2 * count)))
    return np.sort(generator.choice(found, count, replace=False, shuffle=False))
