"""Plugins: a topology's function, by installed name or file, and errors that explain its faults.

Every error in such code becomes a `TopologyError` that names its file and line.
"""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from dgc_topo.python_files import PASSED_ON, last_line, load_module, loading, read_source
from dgc_topo.schedule import Schedule
from dgc_topo.text import name_of, one_line

ENTRY_POINT_GROUP = "dgc_topo.topologies"
Builder = Callable[..., Schedule]

_MODULE = "dgc_topo_topology_"  # prefix of the module names of files
_SIGNATURE = "schedule(world_size, **options)"


class TopologyError(ValueError):
    """No such topology, or options it does not take."""


def known_topologies() -> list[str]:
    """Return the names of all installed topologies, sorted.

    Example:
        >>> "ring" in dt.known_topologies()
        True
    """
    return sorted(_installed())


def is_file(name: str) -> bool:
    """Return True if *name* is the path of a topology's file, rather than an installed name."""
    return name.endswith(".py")


def is_from_file(builder: Builder) -> bool:
    """Return True if *builder* was defined by a file that no import would find."""
    return builder.__module__.startswith(_MODULE)


def builder_of(name: str, folder: str | Path = "") -> Builder:
    """Return the function of the topology called *name*, or in the ``.py`` file *name*.

    Args:
        name: An installed name, or a path; a relative one begins in *folder*.
        folder: The current one by default.

    Raises:
        TopologyError: if there is none, or its module cannot be loaded.
    """
    if is_file(name):
        return _builder_from_file(name, folder)
    return _builder_by_name(name)


@contextmanager
def explained(label: str, builder: Builder) -> Iterator[None]:
    """Turn every exception of the topology *label*'s function into a `TopologyError`.

    The text of a ValueError is kept; for a user's own file, the line is added.

    Raises:
        TopologyError: for all exceptions except those that end the whole command.
    """
    try:
        yield
    except TopologyError:
        raise
    except ValueError as error:
        place = _place(builder, error) if is_from_file(builder) else ""
        line = f" (line {place.rpartition(':')[2]})" if place else ""
        raise TopologyError(f"{label}: {one_line(str(error))}{line}") from error
    except PASSED_ON:
        raise
    except BaseException as error:
        raise TopologyError(
            f"{label}: its function raised {name_of(error)}{at_place(builder, error)}, "
            "expected a Schedule"
        ) from error


def at_place(builder: Builder, error: BaseException) -> str:
    """Return `` at FILE:LINE``, the place of *error* in the topology's file, or of its function."""
    place = _place(builder, error)
    return f" at {place}" if place else ""


def _place(builder: Builder, error: BaseException) -> str:
    code = getattr(inspect.unwrap(builder), "__code__", None)
    if code is not None:
        return last_line(error, code.co_filename) or f"{code.co_filename}:{code.co_firstlineno}"
    file = getattr(sys.modules.get(builder.__module__), "__file__", None)  # for example a class
    return last_line(error, file) if file else ""


def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def _builder_by_name(name: str) -> Builder:
    point = _installed().get(name)
    if point is None:
        close = difflib.get_close_matches(name, known_topologies(), n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        known = ", ".join(known_topologies())
        raise TopologyError(
            f"topology {name!r}: unknown{hint}; expected one of {known}, or the path of a .py file"
        )
    package = point.dist.name if point.dist else point.value
    with loading(f"topology {name!r} of {package}", TopologyError):
        builder: object = point.load()
    return _callable(builder, f"topology {name!r} of {package}: cannot be loaded: {point.value}")


def _builder_from_file(name: str, folder: str | Path) -> Builder:
    what = f"topology {name!r}"
    source = read_source(what, name, folder, TopologyError)
    path = Path(folder, name).resolve()
    with loading(what, TopologyError, path):
        module = load_module(path, source, _MODULE)
    if not hasattr(module, "schedule"):
        raise TopologyError(f"{what}: has no function {_SIGNATURE}")
    return _callable(module.schedule, f"{what}: its 'schedule'")


def _callable(found: object, what: str) -> Builder:
    if not callable(found):
        raise TopologyError(f"{what} is {type(found).__name__}, expected a function {_SIGNATURE}")
    return found
