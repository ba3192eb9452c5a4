"""Types of keys for paths, which are relative to the file's folder, and for names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

_NAME = r"\w[\w.-]*"
_LONGEST = 200  # bytes; file systems take 255, and earlier results get the time behind it


def _is_a_name(name: str) -> str:
    if not re.fullmatch(_NAME, name):
        raise ValueError(
            f"{name!r} is no name for files, expected letters, digits, '_', '-' and '.', with a "
            "letter, a digit or '_' first"
        )
    if len(name.encode()) > _LONGEST:
        raise ValueError(f"{len(name.encode())} bytes long, expected at most {_LONGEST}")
    return name


def _is_printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError(f"{text!r}: control characters, expected text in one line")
    return text


#: A name that may become one of a file or folder: never a path, never hidden, never an option.
Name = Annotated[
    str, AfterValidator(_is_a_name), Field(json_schema_extra={"pattern": f"^{_NAME}$"})
]

#: A text of one line that people read in tables and plots.
Label = Annotated[str, Field(min_length=1), AfterValidator(_is_printable)]


def _is_a_path(path: Path) -> Path:
    _is_printable(str(path))
    return path


def _beside_the_scenario(file: Path, info: ValidationInfo) -> Path:
    return Path((info.context or {}).get("folder", ".")) / _is_a_path(file)


#: A path as it is written.
AnyPath = Annotated[Path, AfterValidator(_is_a_path)]

#: A path that becomes one from where the program runs.
File = Annotated[Path, AfterValidator(_beside_the_scenario)]


def folder_of_scenario(value: object, info: ValidationInfo) -> object:
    """Return the folder of the file that is read; *value*, if none is."""
    if info.context is None or "folder" not in info.context:
        return value
    if value:  # no key for people
        raise PydanticCustomError("extra_forbidden", "Extra inputs are not permitted")
    folder = Path(info.context["folder"])
    return "" if folder == Path() else str(folder.absolute())


HIDDEN = "no key of a scenario file"  #: in the metadata of what only programs set

#: Where relative paths of a table begin: never written in a file, but sent along to workers.  What
#: is recorded is the path as it was written, so that records are equal wherever a scenario lies.
FolderOfScenario = Annotated[
    SkipJsonSchema[str],
    Field(validate_default=True),
    BeforeValidator(folder_of_scenario),
    HIDDEN,
]
