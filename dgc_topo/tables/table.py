"""The base class `Table` of tables in files, and new spellings of old keys."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationInfo,
    model_validator,
)
from pydantic_core import PydanticCustomError

from dgc_topo.tables.explain import shown

_LARGEST = 1e30  # no time or rate of anything is beyond it
_MOST = 1e18  # and no count of anything beyond this


class OldKeyWarning(UserWarning):
    """A file has a key under a name that it had in an earlier release."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """New spelling of a key that files of earlier releases may still have.

    A table declares its old keys in ``old_keys``::

        class Link(Table):
            bandwidth_gbit_per_s: float
            old_keys = {"bandwidth_mb_per_s": NewKey("bandwidth_gbit_per_s", times(8e-3))}

    The old key then means ``bandwidth_gbit_per_s = 8e-3 * value``, wherever the table is read
    from, and an `OldKeyWarning` says so in one line that names the file (if the context of the
    validation has one, under ``file``), the old key and the new one.  Errors, schemas and dumps
    know the new key only.

    Attributes:
        name: The key's new name.
        convert: Function from an old value to a new one; the same value if left out.  A value
            that it cannot convert stays as it is, and is refused under the new name.
        table: Name of the table, for the warning, where the key alone says too little.
    """

    name: str
    convert: Callable[[Any], Any] = lambda value: value
    table: str = ""

    def converted(self, value: object) -> object:
        """Return the new value of an old one."""
        try:
            return self.convert(value)
        except (TypeError, ValueError, ArithmeticError):
            return value


def times(factor: float) -> Callable[[object], object]:
    """Return a conversion for `NewKey` that multiplies finite numbers by *factor*."""

    def convert(value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return value
        return factor * value if math.isfinite(value) else value

    return convert


class Table(BaseModel):
    """A table of a file: unknown keys, and numbers that are none, are errors.

    A number is finite and of a size that things have; text and true or false are no numbers.

    Attributes:
        old_keys: Keys of earlier releases, with their new spellings; those of base classes hold
            as well.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    old_keys: ClassVar[Mapping[str, NewKey]] = {}

    @model_validator(mode="before")
    @classmethod
    def _holds_plain_numbers(cls, table: object, info: ValidationInfo) -> object:
        if not isinstance(table, dict):
            return table
        table = _with_new_keys(table, _old_keys_of(cls), info)
        for key, value in table.items():
            kinds = _kinds_of(cls, key)
            of_lists = {dict, tuple} <= kinds  # values of a table may be lists
            for place, each in _leaves(value, str(key), of_dicts=dict in kinds, of_lists=of_lists):
                expected = _expected(each, kinds)
                if expected:
                    said = {"key": place, "value": shown(each), "expected": expected}
                    raise PydanticCustomError(
                        "number", "{key} = {value}: expected {expected}", said
                    )
        return table


@lru_cache(maxsize=256)
def _old_keys_of(table: type[Table]) -> dict[str, NewKey]:
    """Return the old keys of a table and of its base classes."""
    bases = (base.__dict__.get("old_keys", {}) for base in reversed(table.__mro__))
    return {old: new for keys in bases for old, new in keys.items()}


def _with_new_keys(
    table: Mapping[str, object], old_keys: Mapping[str, NewKey], info: ValidationInfo
) -> dict[str, object]:
    """Return *table* with new keys in the place of old ones; warn of each."""
    if old_keys.keys().isdisjoint(table):
        return dict(table)
    renamed: dict[str, object] = {}
    for key, value in table.items():
        if key not in old_keys:
            renamed[key] = value
            continue
        new = old_keys[key]
        if new.name in table:
            said = {"key": key, "new": new.name}
            raise PydanticCustomError(
                "two_spellings", "{key} is the old name of {new}, expected one of them", said
            )
        renamed[new.name] = new.converted(value)
        where = f"{info.context['file']}: " if info.context and "file" in info.context else ""
        inside = f"{new.table}." if new.table else ""
        warnings.warn(
            f"{where}{inside}{key} has a new name, write {inside}{new.name} = "
            f"{shown(renamed[new.name])}; the old one goes with the next release",
            OldKeyWarning,
            stacklevel=2,
        )
    return renamed


def _expected(value: object, kinds: frozenset[type]) -> str | None:
    """Return the kind of value that was expected instead of *value*; None if it may be right."""
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
    """Return True if *text* reads as a number, though it is in quotes."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _leaves(
    value: object, key: str, *, of_dicts: bool, of_lists: bool = False
) -> Iterator[tuple[str, object]]:
    """Yield keys and values in lists, and in tables that are no section of their own."""
    if isinstance(value, list | tuple):
        for number, each in enumerate(value):
            yield from _leaves(each, f"{key}.{number}", of_dicts=False)
    elif not isinstance(value, dict):
        yield key, value
    elif of_dicts:
        for name, each in value.items():
            if of_lists and isinstance(each, list | tuple):
                yield from _leaves(each, f"{key}.{name}", of_dicts=False)
            else:
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
