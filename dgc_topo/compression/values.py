"""Settings as plain Python numbers, also if they came as NumPy scalars or tensors.

Settings end in checkpoints and records.  A NumPy scalar or a tensor could be saved there, but
neither `torch.load` with ``weights_only`` nor JSON reads it back.
"""

from __future__ import annotations

import math
from dataclasses import fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Settings = TypeVar("_Settings")

FLOAT32_MAX = float(np.finfo(np.float32).max)  #: updates have to fit a float32


def plain_float(what: str, value: object) -> float:
    """Return a real number of Python, NumPy or a tensor of shape () as a float.

    Args:
        what: Name of the setting and its owner in errors.
        value: The number; one too large for a float becomes infinite.

    Raises:
        ValueError: if it is not a number, or true or false.
    """
    scalar = _scalar(value, Real)
    if scalar is None:
        raise ValueError(f"{what} {value!r}, expected a number")
    try:
        return float(scalar)
    except OverflowError:
        return math.inf if scalar > 0 else -math.inf


def plain_int(what: str, value: object) -> int:
    """Return a whole number as an int; as `plain_float` otherwise."""
    scalar = _scalar(value, Integral)
    if scalar is None:
        raise ValueError(f"{what} {value!r}, expected a whole number")
    return int(scalar)


def plain_bool(what: str, value: object) -> bool:
    """Return true or false as a bool; as `plain_float` otherwise."""
    if value is not True and value is not False and not isinstance(value, np.bool_):
        raise ValueError(f"{what} {value!r}, expected True or False")
    return bool(value)


_KINDS = {"float": plain_float, "int": plain_int, "bool": plain_bool}


def make_plain(where: str, settings: DataclassInstance) -> None:
    """Replace the numbers of a frozen dataclass by plain ones of the annotated types.

    Raises:
        ValueError: naming *where* and the field that holds something else.
    """
    for field in fields(settings):
        kind, _, or_none = str(field.type).partition(" | ")
        value = getattr(settings, field.name)
        is_plain = kind == "float" and type(value) in {int, float} and abs(value) <= FLOAT32_MAX
        if kind in _KINDS and not is_plain and not (or_none and value is None):
            plain = _KINDS[kind](f"{where}: {field.name}", value)
            object.__setattr__(settings, field.name, plain)


def checked_settings(where: str, given: _Settings | None, kind: type[_Settings]) -> _Settings:
    """Return *given*, or default settings if it is None.

    Raises:
        ValueError: if the settings are of another kind.
    """
    settings = kind() if given is None else given
    if not isinstance(settings, kind):
        found = type(settings).__name__
        raise ValueError(f"{where}: settings are {found}, expected {kind.__name__}(...)")  # noqa: TRY004
    return settings


def check_epoch(where: str, epoch: object) -> float:
    """Return the number of epochs done as a float.

    Raises:
        ValueError: if that is negative, not finite or no number.
    """
    plain = plain_float(f"{where}: progress of", epoch)
    if not 0 <= plain < math.inf:
        raise ValueError(f"{where}: progress of {epoch} epochs, expected a finite number >= 0")
    return plain


def _scalar(value: Any, kind: type[Any]) -> Any:
    """Return a number as Python's own, unwrapped from NumPy or torch; None if it is none."""
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        value = value.item()
    return value if isinstance(value, kind) and type(value) is not bool else None
