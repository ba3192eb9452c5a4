"""What is wrong in a scenario file, in the words of the file."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel

from dgc_topo.text import one_line


def explain(problem: dict[str, Any], whole: type[BaseModel], where: str = "") -> str:
    """Say in one line which key is wrong, and what was expected there.

    Args:
        problem: One of `pydantic.ValidationError.errors`.
        whole: What was to be made of the file, or of its part *where*.
        where: Key of that part.
    """
    parts, valid = _look_up(problem["loc"], whole)
    key = one_line(".".join(filter(None, (where, *parts)))) or "the file as a whole"
    match problem["type"]:
        case "extra_forbidden":
            close = difflib.get_close_matches(parts[-1], valid, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            return f"{key}: unknown key; valid here: {', '.join(valid)}{hint}"
        case "missing":
            return f"{key}: missing, expected a value"
        case "union_tag_not_found":
            return f"{key}.kind: missing, expected one of {', '.join(valid)}"
        case "union_tag_invalid":
            return f"{key}.kind = {problem['ctx']['tag']!r}: expected one of {', '.join(valid)}"
        case "value_error":
            return f"{key}: {problem['ctx']['error']}"
    message = problem["msg"].replace("Input should be", "expected")
    return f"{key} = {problem['input']!r}: {message[0].lower()}{message[1:]}"


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
    return keys, [field.alias or name for name, field in sections[0].model_fields.items()]


def _kind_of(section: type[BaseModel]) -> str:
    return str(get_args(section.model_fields["kind"].annotation)[0])


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the section types inside an annotation such as ``tuple[TopologyChoice, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
