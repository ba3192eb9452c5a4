"""Memory views of arrays: they read and write Python numbers far faster than indexing does."""

from __future__ import annotations

from collections.abc import MutableSequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt


def view_ints(array: npt.NDArray[np.int64]) -> MutableSequence[int]:
    """Return a view of a one-dimensional array of integers."""
    return cast("MutableSequence[int]", array.data)


def view_floats(array: npt.NDArray[np.float64]) -> MutableSequence[float]:
    """Return a view of a one-dimensional array of floats."""
    return cast("MutableSequence[float]", array.data)


def view_bools(array: npt.NDArray[np.bool_]) -> MutableSequence[bool]:
    """Return a view of a one-dimensional array of truth values."""
    return cast("MutableSequence[bool]", array.data)


def view_any(array: npt.NDArray[Any]) -> MutableSequence[Any]:
    """Return a view of a one-dimensional array of any numbers."""
    return cast("MutableSequence[Any]", array.data)
