"""What every command shares: the console, errors as one clear message, and checks of options."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import typer
from rich.console import Console
from rich.markup import escape

from dgc_topo.topology import Topology, load_topology

HELP_MARKUP: Final = "markdown"  #: of help texts: rich's own takes a "[train]" in them away

console = Console()
errors = Console(stderr=True)

_USER_ERROR = 2
_INTERRUPTED = 130


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn errors that a user can mend into one message and exit status 2, without a traceback."""
    try:
        yield
    except (ValueError, RuntimeError, OSError) as error:
        errors.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(_USER_ERROR) from error
    except KeyboardInterrupt:
        errors.print("interrupted; every worker process has been ended")
        raise typer.Exit(_INTERRUPTED) from None


@contextmanager
def clear_warnings() -> Iterator[None]:
    """Print what the package warned of on stderr at the end, each in one line and once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", category=UserWarning, module="dgc_topo")
        try:
            yield
        finally:
            for text in dict.fromkeys(str(warned.message) for warned in caught):
                line = f"[bold yellow]warning:[/] {escape(text)}"
                errors.print(line, highlight=False, soft_wrap=True)


def topology_from(name: str, options: Iterable[str]) -> Topology:
    """Return the topology *name* with options given as ``key=value``.

    Raises:
        ValueError: if an option is not of that form, or the topology does not take it.
    """
    parsed: dict[str, str | int | float | bool] = {}
    for option in options:
        key, separator, value = option.partition("=")
        if not separator or not key:
            raise ValueError(f"--option {option!r}: expected key=value")
        parsed[key] = value
    return load_topology(name, parsed)


def check_file(option: str, path: Path | None) -> None:
    """Check that a file could be written, before the work begins that it is to hold.

    Raises:
        ValueError: naming the option, if it could not.
    """
    if path is None:
        return
    if not path.parent.is_dir():
        raise ValueError(f"{option} {path}: no such folder, expected {path.parent} to be one")
    if path.is_dir():
        raise ValueError(f"{option} {path}: is a folder, expected a file")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"{option} {path}: cannot be written, expected the right to do so")


def check_folder(option: str, path: Path | None) -> None:
    """Check that there could be a folder, before the work begins that it is to hold.

    Folders above it are made as well, unless they are files or may not be written to.

    Raises:
        ValueError: naming the option, if there could not.
    """
    if path is None:
        return
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not there.is_dir():
        raise ValueError(f"{option} {path}: {there} is a file, expected a folder")
    if not os.access(there, os.W_OK):
        raise ValueError(f"{option} {path}: {there} cannot be written to, expected the right to")
