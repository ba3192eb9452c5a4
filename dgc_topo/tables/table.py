"""Tables of the files that people write: what no table can mean is refused with its key."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    model_validator,
)
from pydantic_core import PydanticCustomError

_LARGEST = 1e30  # no time or rate of anything is beyond it
_MOST = 1e18  # and no count of anything beyond this
_PROBLEM = "{key} = {value}: expected {expected}"
_LONGEST = 60  # characters of a value that are shown


class Table(BaseModel):
    """A table of a file: unknown keys, and numbers that are none, are errors.

    A number is finite and of a size that things have; text and true or false are no numbers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _holds_plain_numbers(cls, table: object) -> object:
        for key, value in table.items() if isinstance(table, dict) else ():
            kinds = _kinds_of(cls, key)
            for place, each in _leaves(value, str(key), of_dicts=dict in kinds):
                expected = _expected(each, kinds)
                if expected:
                    said = {"key": place, "value": shown(each), "expected": expected}
                    raise PydanticCustomError(
                        "number", "{key} = {value}: expected {expected}", said
                    )
        return table


def shown(value: object) -> str:
    """Return a value as a file has it, or the beginning of a long one."""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _expected(value: object, kinds: frozenset[type]) -> str | None:
    """Return what was expected in the place of *value*, or None if it may be right."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not kinds & {int, float}:
        wrong = is_number or isinstance(value, str)
        return "true or false" if wrong and kinds & {bool, str} == {bool} else None
    if isinstance(value, bool) or (isinstance(value, str) and _is_numeric(value)):
        return None if type(value) in kinds else "a number"
    if isinstance(value, list | tuple | dict):
        return "no list or table" if dict in kinds else None
    if isinstance(value, float) and not math.isfinite(value):
        return "a finite number"
    largest = _LARGEST if isinstance(value, float) else _MOST
    too_large = isinstance(value, int | float) and abs(value) > largest
    return f"a number of at most {largest:g}" if too_large else None


def _is_numeric(text: str) -> bool:
    """Return whether *text* would do for a number, if numbers could be written in quotes."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _leaves(value: object, key: str, *, of_dicts: bool) -> Iterator[tuple[str, object]]:
    """Yield keys and values in lists, and in tables that are no section of their own."""
    if isinstance(value, list | tuple):
        for number, each in enumerate(value):
            yield from _leaves(each, f"{key}.{number}", of_dicts=False)
    elif not isinstance(value, dict):
        yield key, value
    elif of_dicts:
        for name, each in value.items():
            yield f"{key}.{name}", each


@lru_cache(maxsize=1024)
def _kinds_of(table: type[Table], field: str) -> frozenset[type]:
    """Return the plain types that a field takes; none if there is no such field."""
    fields = table.model_fields.items()
    named = [about for name, about in fields if field in {name, about.alias}]
    if not named:
        return frozenset()
    about = named[0]
    kinds = set(_kinds_in(about.annotation))
    # What reads the value first may take text for a number, such as "10 MB".
    reads = any(isinstance(each, BeforeValidator) for each in about.metadata)
    return frozenset(kinds | {str} if reads else kinds)


def _kinds_in(annotation: Any) -> Iterator[type]:
    origin = get_origin(annotation)
    if origin is Literal:
        yield from {type(choice) for choice in get_args(annotation)}
        return
    if origin is Annotated:
        inner, *about = get_args(annotation)
        if any(isinstance(each, BeforeValidator) for each in about):
            yield str
        yield from _kinds_in(inner)
        return
    if isinstance(origin, type):
        yield origin
    if isinstance(annotation, type):
        yield annotation
    for part in get_args(annotation):
        yield from _kinds_in(part)
