"""Settings as plain Python numbers, also if they came as NumPy scalars or tensors."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from dgc_topo.scalars import plain_bool, plain_float, plain_int

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Settings = TypeVar("_Settings")

FLOAT32_MAX = float(np.finfo(np.float32).max)  #: updates have to fit a float32


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
