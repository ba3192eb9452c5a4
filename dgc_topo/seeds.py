"""Seeds for streams of random numbers that must not meet: a worker's, an epoch's, a step's."""

from __future__ import annotations

import numpy as np


def stream_seed(*words: int) -> int:
    """Return the seed of the stream that *words* (of at least 0) name: 63 bits, never negative."""
    [state] = np.random.SeedSequence(words).generate_state(1, np.uint64)
    return int(state) >> 1
