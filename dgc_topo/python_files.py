"""Python files of the user's own: loading one, and errors that name its file and line.

Only ``os._exit`` and crashes of the interpreter in such a file end the process without a message.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from dgc_topo.text import name_of

__all__ = [
    "PASSED_ON",
    "AskedToEnd",
    "CodeError",
    "LoadedFile",
    "digest_of",
    "explained",
    "last_line",
    "load_file",
    "load_function",
    "load_module",
    "loading",
    "read_source",
    "split_name",
]

_MODULE = "dgc_topo_own_"  # prefix of the module names of files
_NAME = re.compile(r"(.+\.py):([^\W\d]\w*)")


class CodeError(ValueError):
    """No such file or name, or a fault in the user's own code."""


class AskedToEnd(SystemExit):
    """An exit requested from outside, not by a user's file."""


#: Exceptions that end the whole command, whoever's code is running.
PASSED_ON = (KeyboardInterrupt, GeneratorExit, AskedToEnd)


def read_source(what: str, name: str, folder: str | Path, error: type[ValueError]) -> bytes:
    """Return the text of a Python file.

    Args:
        what: Name of the file in errors.
        name: Path of the file; a relative one begins in *folder*.
        folder: The current one by default ("").
        error: Type of the errors.

    Raises:
        ValueError: of that type, if it cannot be read.
    """
    try:
        return Path(folder, name).read_bytes()
    except FileNotFoundError:
        place = f" in {str(folder)!r}" if folder else f" in the current folder, {str(Path.cwd())!r}"
        where = "" if Path(name).is_absolute() else place
        raise error(f"{what}: no such file{where}") from None
    except (OSError, RuntimeError, ValueError) as reason:
        raise error(f"{what}: cannot be read: {name_of(reason)}") from reason


class LoadedFile(NamedTuple):
    """A Python file of the user's own.

    Attributes:
        module: The module that it makes.
        path: The file, absolute.
        digest: Fingerprint of its text.
    """

    module: ModuleType
    path: Path
    digest: str


def load_file(
    what: str, name: str, folder: str | Path = "", *, digest: str | None = None
) -> LoadedFile:
    """Load a Python file.

    Args:
        what: Name of the file in errors.
        name: Path of the file; a relative one begins in *folder*.
        folder: The current one by default.
        digest: Fingerprint that the file's text must have; any by default.

    Raises:
        CodeError: if there is no such file, it fails, or its text is another.
    """
    source = read_source(what, name, folder, CodeError)
    if digest not in {None, digest_of(source)}:
        raise CodeError(f"{what}: the file has changed since this run began, expected it as it was")
    path = Path(folder, name).resolve()
    with loading(what, CodeError, path):
        module = load_module(path, source, _MODULE)
    return LoadedFile(module, path, digest_of(source))


def split_name(text: str) -> tuple[str, str] | None:
    """Return the file and the name in ``file.py:NAME``; None if *text* has another form."""
    found = _NAME.fullmatch(text)
    return None if found is None else (found[1], found[2])


def load_function(
    text: str, folder: str | Path = "", *, key: str = "", digest: str | None = None
) -> Callable[..., Any]:
    """Return the function or class that *text*, ``file.py:NAME``, names.

    Args:
        text: Path of a Python file and a name in it.
        folder: Folder in which a relative path begins; the current one by default.
        key: Key that named it, for errors.
        digest: Fingerprint that the file's text must have; any by default.

    Raises:
        CodeError: if there is no such file or name, or its text is another.
    """
    what = f"{key}: {text}" if key else text
    found = split_name(text)
    if found is None:
        raise CodeError(f"{what}: expected the form file.py:NAME")
    module = load_file(what, found[0], folder, digest=digest).module
    if not hasattr(module, found[1]):
        own = [name for name, value in vars(module).items() if _is_own(module, value)]
        close = difflib.get_close_matches(found[1], own, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        listed = ", ".join(own) or "none"
        raise CodeError(
            f"{what}: the file has no {found[1]!r}{hint}; it has these functions and classes: "
            f"{listed}"
        )
    function: Callable[..., Any] = getattr(module, found[1])
    if not callable(function):
        raise CodeError(f"{what}: is {type(function).__name__}, expected a function or a class")
    return function


def _is_own(module: ModuleType, value: object) -> bool:
    return callable(value) and getattr(value, "__module__", None) == module.__name__


@contextmanager
def explained(what: str, doing: str = "") -> Iterator[None]:
    """Turn what the user's code raises into a `CodeError` about *what*, with its file and line.

    Args:
        what: Name of the code in errors.
        doing: What was done with it, for errors.
    """
    try:
        yield
    except CodeError:
        raise
    except PASSED_ON:
        raise
    except BaseException as error:
        place = _last_own_line(error)
        at = f" at {place}" if place else ""
        raise CodeError(f"{what}: raised {name_of(error)}{at}{doing}") from error


def _last_own_line(error: BaseException) -> str:
    """Return ``FILE:LINE``, the last one in a file that `load_function` has loaded."""
    own = {module.__file__ for name, module in sys.modules.items() if name.startswith(_MODULE)}
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f"{frame.filename}:{frame.lineno}" for frame in frames if frame.filename in own]
    return lines[-1] if lines else ""


def digest_of(source: bytes) -> str:
    """Return the fingerprint of a file's text."""
    return hashlib.sha256(source).hexdigest()[:16]


@cache
def load_module(path: Path, source: bytes, prefix: str) -> ModuleType:
    """Return the module of a file; each file and each version of its text has its own module.

    No cached bytecode is read or written, because Python's cache does not see a second edit of the
    same size within a second.  Modules that the file imports are loaded once, as always.

    Args:
        path: The file, absolute.
        source: Its text.
        prefix: Beginning of the module's name.
    """
    digest = digest_of(bytes(path) + b"\0" + source)
    module = ModuleType(f"{prefix}{path.stem}_{digest}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # where dataclasses and pickle look for it
    try:
        exec(compile(source, path, "exec"), module.__dict__)
    except BaseException:
        sys.modules.pop(module.__name__, None)
        raise
    return module


@contextmanager
def loading(what: str, error: type[ValueError], path: Path | None = None) -> Iterator[None]:
    """Turn what a module raises while it is imported into an error about *what*."""
    try:
        yield
    except PASSED_ON:
        raise
    except BaseException as reason:
        place = last_line(reason, str(path))
        at = f" at {place}" if place else ""
        raise error(f"{what}: cannot be loaded: {name_of(reason)}{at}") from reason


def last_line(error: BaseException, file: str) -> str:
    """Return ``FILE:LINE`` where *error* was raised in *file*; empty if it was raised elsewhere."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == file]
    return f"{file}:{lines[-1]}" if lines else ""
