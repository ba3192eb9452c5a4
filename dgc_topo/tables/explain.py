"""Explanations of errors in a table file, in the file's own terms."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from dgc_topo.tables.places import HIDDEN
from dgc_topo.text import one_line

_FEW = 3  # keys that may have been meant
_MANY = 8  # keys that are listed
_LONGEST = 60  # characters of a value that are shown


def explain_all(error: ValidationError, whole: type[BaseModel]) -> Iterator[str]:
    """Yield one line per error in a file that was read as *whole*."""
    problems = error.errors()
    for problem in problems:
        inside = (p["loc"][: len(problem["loc"])] == problem["loc"] for p in problems)
        if problem["type"] == "too_short" and sum(inside) > 1:
            continue  # only for what is wrong inside
        yield explain(dict(problem), whole)


def explain(problem: dict[str, Any], whole: type[BaseModel], where: str = "") -> str:
    """Return one line that names the wrong key and the expected value.

    Args:
        problem: One of `pydantic.ValidationError.errors`.
        whole: Type that the file, or its part *where*, was read as.
        where: Key of that part.
    """
    parts, valid = _look_up(problem["loc"], whole)
    key = one_line(".".join(filter(None, (where, *parts)))) or "the file as a whole"
    match problem["type"]:
        case "extra_forbidden":
            said = f": unknown key; {_valid_text(parts[-1], valid)}"
        case "missing":
            said = ": missing, expected a value"
        case "union_tag_not_found":
            said = f".kind: missing, expected one of {', '.join(valid)}"
        case "union_tag_invalid":
            said = f".kind = {problem['ctx']['tag']!r}: expected one of {', '.join(valid)}"
        case "number":  # says itself where in the table
            return ".".join(filter(None, (where, *parts, problem["msg"])))
        case "two_spellings":
            said = f": {problem['msg']}"
        case "value_error":
            said = f": {problem['ctx']['error']}"
        case _:
            message = problem["msg"].replace("Input should be", "expected")
            message = message.replace("tuple", "list").replace("dictionary", "table")
            said = f" = {shown(problem['input'])}: {message[0].lower()}{message[1:]}"
    return key + said


def shown(value: object) -> str:
    """Return a value as written in a file; a long one is cut off."""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _valid_text(wrong: str, valid: list[str]) -> str:
    """Return the valid keys in place of a wrong one: the most similar first, and not too many."""
    likely = difflib.get_close_matches(wrong, valid, n=_FEW)
    ordered = [*likely, *(key for key in valid if key not in likely)]
    others = len(ordered) - _MANY
    more = f" and {others} more ('dgc-topo schema' has them all)" if others > 0 else ""
    hint = f"; did you mean {likely[0]!r}?" if likely else ""
    return f"valid here: {', '.join(ordered[:_MANY])}{more}{hint}"


def _look_up(
    location: tuple[str | int, ...], whole: type[BaseModel]
) -> tuple[list[str], list[str]]:
    """Return the keys to a place, and what is valid there: keys, or kinds where it may be several.

    Pydantic puts the kind of a table into its location, though it is no key.
    """
    keys: list[str] = []
    sections = [whole]
    for part in location:
        if len(sections) > 1 and not isinstance(part, int):
            sections = [section for section in sections if _kind_of(section) == part]
            continue
        keys.append(str(part))
        for name, field in sections[0].model_fields.items():
            if part in {name, field.alias}:
                sections = list(_models_in(field.annotation)) or sections
                break
    if len(sections) > 1:
        return keys, [_kind_of(section) for section in sections]
    fields = sections[0].model_fields.items()
    return keys, [field.alias or name for name, field in fields if HIDDEN not in field.metadata]


def _kind_of(section: type[BaseModel]) -> str:
    return str(get_args(section.model_fields["kind"].annotation)[0])


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the section types inside an annotation such as ``tuple[TrainSection, ...]``.

    A type that is written as a table names the table's type as its *table_type*.
    """
    table = getattr(annotation, "table_type", annotation)
    if isinstance(table, type) and issubclass(table, BaseModel):
        yield table
    for part in get_args(annotation):
        yield from _models_in(part)
