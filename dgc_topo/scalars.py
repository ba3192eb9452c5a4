"""Numbers of callers as plain Python numbers, whatever library they came from.

They end in checkpoints, in records and in topologies' functions: a NumPy scalar or a tensor can be
saved, but neither `torch.load` with ``weights_only`` nor JSON reads it back, and it overflows.
"""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import numpy as np


def plain_float(what: str, value: object) -> float:
    """Return a real number of Python, NumPy or a tensor of shape () as a float.

    Args:
        what: Name of the setting and its owner in errors.
        value: The number; one too large for a float becomes infinite.

    Raises:
        ValueError: if it is no number, or true or false.
    """
    scalar = _scalar(value, Real)
    if scalar is None:
        raise ValueError(f"{what} {value!r}, expected a number")
    try:
        return float(scalar)
    except OverflowError:
        return math.inf if scalar > 0 else -math.inf


def plain_int(what: str, value: object, least: int | None = None) -> int:
    """Return a whole number as an int; as `plain_float` otherwise.

    Args:
        what: Name of the setting and its owner in errors.
        value: The number.
        least: Smallest number that makes sense, if there is one.

    Raises:
        ValueError: if it is no whole number, or smaller.
    """
    scalar = _scalar(value, Integral)
    if scalar is None:
        raise ValueError(f"{what} {value!r}, expected a whole number")
    if least is not None and scalar < least:
        raise ValueError(f"{what} {scalar}, expected {least} or more")
    return int(scalar)


def plain_bool(what: str, value: object) -> bool:
    """Return true or false as a bool; as `plain_float` otherwise."""
    if value is not True and value is not False and not isinstance(value, np.bool_):
        raise ValueError(f"{what} {value!r}, expected True or False")
    return bool(value)


def _scalar(value: Any, kind: type[Any]) -> Any:
    """Return a number as Python's own, unwrapped from NumPy or torch; None if it is none."""
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        value = value.item()
    return value if isinstance(value, kind) and type(value) is not bool else None
