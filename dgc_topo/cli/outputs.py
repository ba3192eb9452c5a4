"""Output files and folders of a command: checks made before its work begins."""

from __future__ import annotations

import difflib
import os
import sys
from pathlib import Path
from typing import Final

#: Formats that need nothing but matplotlib.
PICTURE_SUFFIXES: Final = (".png", ".svg", ".pdf", ".eps", ".ps", ".jpg", ".jpeg", ".webp", ".tif")

#: First bytes of the files that each option writes; a file that begins so may be overwritten.
_BEGINNINGS = {"--trace": b'{\n "traceEvents"', "--goal": b"num_ranks "}


def check_file(option: str, path: Path | None) -> None:
    """Check that a file can be written and that no file of another kind would be overwritten.

    Raises:
        ValueError: naming the option, if not.
    """
    if path is None:
        return
    if not path.parent.is_dir():
        raise ValueError(f"{option} {path}: no such folder, expected {path.parent} to be one")
    if path.is_dir():
        raise ValueError(f"{option} {path}: is a folder, expected a file")
    place = path if path.exists() and not path.is_file() else path.parent
    if not os.access(place, os.W_OK):
        raise ValueError(f"{option} {path}: cannot be written, expected the right to do so")
    beginning = _BEGINNINGS.get(option, b"")
    if path.is_file() and path.stat().st_size:
        with path.open("rb") as file:
            if file.read(len(beginning)) != beginning:
                raise ValueError(
                    f"{option} {path}: is a file of another kind, expected a new one, or one "
                    f"that {option} has written"
                )


def check_new_file(option: str, path: Path | None) -> None:
    """Check a path as `check_file` does, and that there is nothing yet.

    Raises:
        ValueError: naming the option, if there is.
    """
    check_file(option, path)
    if path is not None and path.exists():
        raise ValueError(f"{option} {path}: is there already, expected the name of a new file")


def check_picture(option: str, path: Path | None, *more: str) -> None:
    """Check a picture's path as `check_file` does, and that its suffix names a format.

    Args:
        option: Name of the option.
        path: Path that it names, if any.
        more: Further suffixes that it takes, such as ``.html``.

    Raises:
        ValueError: naming the option and the known suffixes.
    """
    check_file(option, path)
    known = (*PICTURE_SUFFIXES, *more)
    if path is not None and path.suffix.lower() not in known:
        listed = ", ".join(known)
        close = difflib.get_close_matches(path.suffix.lower(), known, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        problem = f"unknown suffix {path.suffix!r}" if path.suffix else "no suffix"
        raise ValueError(f"{option} {path}: {problem}{hint}, expected one of {listed}")


def check_folder(option: str, path: Path | None) -> None:
    """Check, before the work begins, that the folder for its results exists or can be made.

    Missing parents can be made too, unless one of them is a file or is not writable.

    Raises:
        ValueError: naming the option, if the folder cannot be made.
    """
    if path is None:
        return
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not there.is_dir():
        raise ValueError(f"{option} {path}: {there} is a file, expected a folder")
    if not os.access(there, os.W_OK):
        raise ValueError(f"{option} {path}: {there} cannot be written to, expected the right to")


def moved_text(folder: Path, aside: Path) -> str:
    """Return a sentence that says where earlier results were moved."""
    return f"earlier results: {folder} is now {aside}"


def warn_of_old_command(old: str, new: str) -> None:
    """Say on standard error that a command has a new name; under a launcher only rank 0 says it."""
    if os.environ.get("RANK", "0") == "0":
        sys.stderr.write(f"warning: 'python {old}' is now 'python {new}'\n")
