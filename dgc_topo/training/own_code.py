"""Keys for models, data and losses in Python files of the user's own, named ``file.py:NAME``.

A relative path begins in the scenario's folder.  Workers read the files themselves; the
fingerprints of the files' texts go along with a job, so that all of it runs the same text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationInfo
from pydantic.config import JsonDict, JsonValue
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from dgc_topo.python_files import digest_of, load_function, read_source, split_name
from dgc_topo.tables.places import HIDDEN, FolderOfScenario
from dgc_topo.tables.table import Table

_PATTERN = r"^.+\.py:[A-Za-z_]\w*$"
_KEYS = ("dataset", "model", "loss", "optimizer")  #: of ``[train]`` that may name code


def is_own(name: str | None) -> bool:
    """Return True for ``file.py:NAME``, False for the name of what comes with the package."""
    return name is not None and split_name(name) is not None


class TableOfCode(Table):
    """A table whose keys may name files, and the folder in which relative paths begin."""

    folder: FolderOfScenario = ""


def check_of(names: Sequence[str]) -> Callable[[str, ValidationInfo], str]:
    """Return the check of a key that holds one of *names*, or ``file.py:NAME``."""

    def check(name: str, info: ValidationInfo) -> str:
        if name in names:
            return name
        found = split_name(name)
        if found is None:
            known = ", ".join(f"'{known}'" for known in names)
            expected = f"{known}, or file.py:NAME" if known else "the form file.py:NAME"
            raise PydanticCustomError("name", "Input should be {known}", {"known": expected})
        if info.context is not None and "folder" in info.context:
            read_source(f"file {found[0]!r}", found[0], info.data.get("folder", ""), ValueError)
        return name

    return check


def schema_of(names: Sequence[str]) -> JsonDict:
    """Return the JSON schema of such a key."""
    choices: list[JsonValue] = [{"enum": list(names)}] if names else []
    return {"anyOf": [*choices, {"pattern": _PATTERN}]}


def _digests(value: object, info: ValidationInfo) -> object:
    if info.context is None or "folder" not in info.context:
        return value
    if value:  # no key for people
        raise PydanticCustomError("extra_forbidden", "Extra inputs are not permitted")
    folder, digests = info.data.get("folder", ""), {}
    for key in _KEYS:
        found = split_name(info.data.get(key) or "")
        if found is not None:
            source = read_source(f"file {found[0]!r}", found[0], folder, ValueError)
            digests[found[0]] = digest_of(source)
    return digests


#: Fingerprints of the texts of the files that a table names, by path as written: never written in
#: a file, but made when one is read, and sent along to workers.
Digests = Annotated[
    SkipJsonSchema[dict[str, str]],
    Field(validate_default=True),
    BeforeValidator(_digests),
    HIDDEN,
]


def load_own(name: str, folder: str, key: str, digests: dict[str, str]) -> Callable[..., Any]:
    """Return the function or class ``file.py:NAME`` of a table.

    Args:
        name: As written.
        folder: The table's.
        key: Key that named it.
        digests: Fingerprints of the table's files; none are checked for a file that has none.

    Raises:
        CodeError: if there is none, or its file has changed since the table was read.
    """
    found = split_name(name)
    digest = digests.get(found[0]) if found else None
    return load_function(name, folder, key=key, digest=digest)
