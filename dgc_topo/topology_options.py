"""Options of a topology: checked against its function, and their text form."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import PydanticUserError, TypeAdapter

from dgc_topo.plugins import Builder, TopologyError, at_place
from dgc_topo.text import name_of

OptionValue = str | int | float | bool

_BUILD_ARGUMENTS = ("iteration", "seed")  # given by the run, not by the user

_QUOTED = r'"(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*"'  # a string of JSON
# A quoted name, an installed one, a path up to the first ".py" that ends it, or what is no name.
_NAME = re.compile(
    rf'{_QUOTED}|[^:/\\"]+(?=:\w+=|\Z)|[^"].*?\.py(?=:\w+=|\Z)|(?:[^:"][^:]*)?', re.DOTALL
)
_OPTION = re.compile(rf'(\w+)=({_QUOTED}|(?:[^",][^,]*)?)(?=,|\Z)', re.DOTALL)


class TypedText(str):
    """Text of an option's value without quotes: a number, if the option may be one."""

    __slots__ = ()


def option_choices(builder: Builder) -> dict[str, str]:
    """Return each option of a topology with its default and choices, as text."""
    hints = get_type_hints(builder)
    return {
        key: f"{_type_text(hints.get(key, Any))} (default {parameter.default})"
        for key, parameter in _options(builder).items()
    }


@lru_cache(maxsize=256)
def parameters_of(builder: Builder) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a topology's function by their names."""
    return inspect.signature(builder).parameters


def _options(builder: Builder) -> dict[str, inspect.Parameter]:
    after_world_size = list(parameters_of(builder).items())[1:]
    return {key: p for key, p in after_world_size if key not in _BUILD_ARGUMENTS}


def checked_options(
    name: str, builder: Builder, options: Mapping[str, OptionValue]
) -> dict[str, OptionValue]:
    """Return *options* as the types that the function of the topology *name* declares.

    Raises:
        TopologyError: if it takes no such option or value, listing what it takes.
    """
    try:
        allowed, hints = _options(builder), get_type_hints(builder)
    except Exception as error:
        at = at_place(builder, error)
        raise TopologyError(
            f"topology {name!r}: its function's types cannot be read: {name_of(error)}{at}, "
            "expected names that its module imports"
        ) from error
    checked: dict[str, OptionValue] = {}
    for key, value in options.items():
        if key not in allowed:
            listed = ", ".join(allowed) or "none"
            raise TopologyError(f"topology {name!r}: unknown option {key!r}; it takes: {listed}")
        hint = hints.get(key, Any)
        try:
            checked[key] = _converted(value, hint)
        except (ValueError, PydanticUserError) as error:
            raise TopologyError(
                f"topology {name!r}: option {key}={value!r}, expected {_type_text(hint)}"
            ) from error
    return checked


def _converted(value: OptionValue, hint: Any) -> OptionValue:
    """Return *value* as the type that is declared for it.

    Raises:
        ValueError: if it is none of that type.
    """
    if isinstance(value, TypedText):
        value = str(value)
        with suppress(ValueError):
            if hint is not str:
                return _converted(number_or_text(value), hint)
    if isinstance(value, bool) and hint in {int, float}:  # pydantic would take it for 1
        raise ValueError(f"{value}: expected a number")
    converted: OptionValue = TypeAdapter(hint).validate_python(value)
    return converted


def _type_text(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " | ".join(str(choice) for choice in get_args(hint))
    return getattr(hint, "__name__", str(hint))


def split_text(
    text: str, more: Iterable[str] = (), *, what: str = "topology"
) -> tuple[str, dict[str, OptionValue]]:
    """Return the name and the options in the text form of a topology, or of another value.

    Args:
        text: ``name`` or ``name:key=value,key=value``.
        more: Options, each ``key=value``, that are added to those in the text.
        what: Kind of value, for errors.

    Raises:
        TopologyError: if that is not its form, or an option is given twice.
    """
    match = _NAME.match(text)
    assert match is not None  # the empty name fits at least
    name, end = match[0], match.end()
    given: list[tuple[str, OptionValue]] = []
    while end < len(text):
        option = _OPTION.match(text, end + 1)
        if text[end] != ("," if given else ":") or option is None:
            raise TopologyError(f"{what} {text!r}: expected name or name:key=value,key=value")
        key, value, end = option[1], option[2], option.end()
        given.append((key, json.loads(value) if value.startswith('"') else TypedText(value)))
    for each in more:
        key, separator, value = each.partition("=")
        if not separator or not key:
            raise TopologyError(f"{what} {name!r}: option {each!r}, expected key=value")
        given.append((key, TypedText(value)))
    keys = [key for key, _ in given]
    for key in keys:
        if keys.count(key) > 1:
            raise TopologyError(f"{what} {name!r}: option {key} is given twice, expected once")
    return (json.loads(name) if name.startswith('"') else name), dict(given)


def joined_text(name: str, options: Mapping[str, OptionValue]) -> str:
    """Return the text form of a topology, from which `split_text` reads it."""
    ends = (_NAME.match(name + end) for end in ("", ":x="))
    is_plain = not name.startswith('"') and all(end and end[0] == name for end in ends)
    listed = ",".join(f"{key}={_value_text(value)}" for key, value in options.items())
    return (name if is_plain else json.dumps(name)) + (f":{listed}" if listed else "")


def _value_text(value: OptionValue) -> str:
    if isinstance(value, str) and number_or_text(value) is value and not set('",') & set(value):
        return value
    return json.dumps(value, ensure_ascii=False)


def number_or_text(text: str) -> OptionValue:
    """Return the number, true or false that *text* is in JSON; any other text as it is."""
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, bool | int | float) else text
