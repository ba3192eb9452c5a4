"""Seeds of independent streams of random numbers, such as a worker's, an epoch's or a step's."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """Purposes of a training's random numbers: the last word of their streams' names."""

    PERMUTATION = 0  #: of an epoch's samples
    OFFSET = 1  #: of an epoch's text
    AUGMENTATION = 2
    MODEL = 3  #: what the model itself draws, as for dropout
    GRADIENTS = 4  #: of emulated models
    DIVISION = 7  #: of the data by their labels


def stream_seed(*words: int) -> int:
    """Return the seed of the stream named by *words* (each at least 0): 63 bits, never negative."""
    [state] = np.random.SeedSequence(words).generate_state(1, np.uint64)
    return int(state) >> 1
