"""Seeds of independent streams of random numbers, such as a worker's, an epoch's or a step's."""

from __future__ import annotations

import numpy as np


def stream_seed(*words: int) -> int:
    """Return the seed of the stream named by *words* (each at least 0): 63 bits, never negative."""
    [state] = np.random.SeedSequence(words).generate_state(1, np.uint64)
    return int(state) >> 1
