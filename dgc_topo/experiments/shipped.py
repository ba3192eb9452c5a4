"""Scenarios that come with the package, by name: `quickstart` is ``scenarios/quickstart.toml``."""

from __future__ import annotations

import difflib
import os
import tomllib
from pathlib import Path
from typing import NamedTuple

_PACKAGE = Path(__file__).parents[1]

#: Sections that decide which command a scenario is for; the first one present decides.
_COMMANDS = {
    "validate": "validate",
    "throughput": "bench training",
    "ladder": "compare",
    "train": "compare",
    "simulate": "simulate",
    "sweep": "sweep",
}


class ShippedScenario(NamedTuple):
    """A scenario that comes with the package.

    Attributes:
        name: Name in commands.
        description: Description in one line.
        command: Command of ``dgc-topo`` that runs it.
    """

    name: str
    description: str
    command: str


def scenario_path(name_or_path: str | Path) -> Path:
    """Return the file of a scenario, given a shipped scenario's name or any path.

    A path has a suffix or a slash, so that no file or folder of the user's is taken for a name.

    Raises:
        ValueError: if it is a name and there is no such scenario.
    """
    text = os.fspath(name_or_path)
    path = Path(text)
    if not text or path.suffix or path.name != text:
        return path
    names = [each.name for each in shipped_scenarios()]
    if text in names:
        return _folder() / f"{text}.toml"
    close = difflib.get_close_matches(text, names, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise ValueError(
        f"scenario {text!r}: unknown{hint}; expected one of {', '.join(names)}, or the path of a "
        ".toml file"
    )


def shipped_scenarios() -> list[ShippedScenario]:
    """Return all scenarios that come with the package, by name."""
    return sorted(map(_shipped, _folder().glob("*.toml")))


def _shipped(file: Path) -> ShippedScenario:
    tables = tomllib.loads(file.read_text(encoding="utf-8"))
    command = next(command for section, command in _COMMANDS.items() if section in tables)
    return ShippedScenario(file.stem, tables.get("description", ""), command)


def _folder() -> Path:
    """Return the folder of scenarios: inside the package in a wheel, else that of the checkout."""
    inside = _PACKAGE / "scenarios"
    return inside if inside.is_dir() else _PACKAGE.parent / "scenarios"
