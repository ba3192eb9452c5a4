"""Types of NumPy arrays, and whether somebody may still write into one."""

from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


def may_change(values: npt.NDArray[Any]) -> bool:
    """Return True if somebody may write into an array, or into the one that it is a view of."""
    shown: Any = values
    while isinstance(shown, np.ndarray):
        if shown.flags.writeable:
            return True
        shown = shown.base
    return shown is not None  # a buffer of somebody else
