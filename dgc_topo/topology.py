"""Find a topology by name or file, check its options, and build its schedules.

A topology is one function ``schedule(world_size, **options) -> Schedule`` in one file.  It is found
through the entry-point group ``dgc_topo.topologies``, or by the path of its ``.py`` file.  If the
function takes ``iteration`` or ``seed`` its schedule may differ from one iteration to the next.
"""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from dgc_topo.schedule import IntArray, Schedule, Step

ENTRY_POINT_GROUP = "dgc_topo.topologies"
Builder = Callable[..., Schedule]
OptionValue = str | int | float | bool

_BUILD_ARGUMENTS = ("iteration", "seed")  # given by the run, not by the user


class TopologyError(ValueError):
    """No such topology, or options it does not take."""


@dataclass(frozen=True, slots=True)
class Topology:
    """A named family of schedules with its options fixed.

    Attributes:
        name: The name or file it was loaded by.
        builder: The plugin's function.
        options: Checked options, passed to *builder*.
    """

    name: str
    builder: Builder
    options: Mapping[str, OptionValue] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Name and options in one short text, such as ``butterfly(order=far)``."""
        inside = ", ".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.name}({inside})" if inside else self.name

    @property
    def varies(self) -> bool:
        """Whether the schedule may depend on the iteration."""
        return "iteration" in _parameters(self.builder)

    @property
    def summary(self) -> str:
        """First line of the plugin's documentation."""
        module = sys.modules.get(self.builder.__module__)
        text = inspect.getdoc(self.builder) or inspect.getdoc(module) or ""
        if module is not None and module.__doc__:
            text = module.__doc__
        return text.strip().splitlines()[0] if text.strip() else ""

    def schedule(self, world_size: int, *, iteration: int = 0, seed: int = 0) -> Schedule:
        """Return the schedule for *world_size* ranks.

        Args:
            world_size: Number of ranks, dedicated servers included.
            iteration: Number of the training step, for topologies that change.
            seed: Where random topologies start; the same on every rank.

        Raises:
            TopologyError: if the topology cannot run with this world size, or its function fails;
                the schedule's steps, which may be made later, raise it as well.
        """
        if world_size < 1:
            raise TopologyError(f"{self.label}: world_size {world_size}, expected at least 1")
        given = {"iteration": iteration, "seed": seed}
        wanted = {k: v for k, v in given.items() if k in _parameters(self.builder)}
        try:
            built = self.builder(world_size, **self.options, **wanted)
        except ValueError as error:
            raise TopologyError(f"{self.label}: {error}") from error
        except Exception as error:
            raise self._failed(error) from error
        if not isinstance(built, Schedule):
            raise TopologyError(
                f"{self.label}: its function returned {type(built).__name__}, expected a Schedule"
            )
        if built.world_size != world_size:
            raise TopologyError(
                f"{self.label}: its schedule has {built.world_size} ranks, expected {world_size}"
            )
        return replace(built, steps_of=lambda ranks: self._steps(built, ranks))

    def _steps(self, built: Schedule, ranks: IntArray) -> Iterator[Step]:
        """Yield the steps of *built*; the topology's function may make them only now."""
        try:
            yield from built.steps_of(ranks)
        except ValueError:  # says itself what is wrong
            raise
        except Exception as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> TopologyError:
        at = _place(self.builder, error)
        return TopologyError(
            f"{self.label}: its function raised {_text(error)}{at}, expected a Schedule"
        )


def known_topologies() -> list[str]:
    """Return the names of all installed topologies, sorted."""
    return sorted(_installed())


def load_topology(name: str, options: Mapping[str, OptionValue] | None = None) -> Topology:
    """Return the topology called *name*, or defined in the ``.py`` file *name*.

    Args:
        name: An installed name, or a path that ends in ``.py``.
        options: The topology's own options; text is converted to the declared type.

    Raises:
        TopologyError: if there is no such topology or option, listing the valid ones.
    """
    builder = _builder_from_file(Path(name)) if name.endswith(".py") else _builder_by_name(name)
    return Topology(name, builder, _checked_options(name, builder, options or {}))


def option_choices(builder: Builder) -> dict[str, str]:
    """Return each option of a topology with its default and choices, as text."""
    hints = get_type_hints(builder)
    return {
        key: f"{_type_text(hints.get(key, Any))} (default {parameter.default})"
        for key, parameter in _options(builder).items()
    }


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
    try:
        builder: Builder = point.load()
    except Exception as error:
        raise TopologyError(
            f"topology {name!r} of {package}: cannot be loaded: {_text(error)}"
        ) from error
    if not callable(builder):
        raise TopologyError(
            f"topology {name!r} of {package}: cannot be loaded: {point.value} is "
            f"{type(builder).__name__}, expected a function schedule(world_size, **options)"
        )
    return builder


@cache
def _builder_from_file(path: Path) -> Builder:
    if not path.is_file():
        raise TopologyError(f"topology {str(path)!r}: no such file")
    module_name = f"dgc_topo_topology_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise TopologyError(f"topology {str(path)!r}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise TopologyError(f"topology {str(path)!r}: cannot be loaded: {_text(error)}") from error
    builder: Builder | None = getattr(module, "schedule", None)
    if builder is None or not callable(builder):
        raise TopologyError(
            f"topology {str(path)!r}: has no function schedule(world_size, **options)"
        )
    return builder


def _parameters(builder: Builder) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(builder).parameters


def _options(builder: Builder) -> dict[str, inspect.Parameter]:
    after_world_size = list(_parameters(builder).items())[1:]
    return {key: p for key, p in after_world_size if key not in _BUILD_ARGUMENTS}


def _checked_options(
    name: str, builder: Builder, options: Mapping[str, OptionValue]
) -> dict[str, OptionValue]:
    allowed = _options(builder)
    try:
        hints = get_type_hints(builder)
    except Exception as error:
        at = _place(builder, error)
        raise TopologyError(
            f"topology {name!r}: its function's types cannot be read: {_text(error)}{at}, "
            "expected names that its module imports"
        ) from error
    checked: dict[str, OptionValue] = {}
    for key, value in options.items():
        if key not in allowed:
            listed = ", ".join(allowed) or "none"
            raise TopologyError(f"topology {name!r}: unknown option {key!r}; it takes: {listed}")
        try:
            checked[key] = TypeAdapter(hints.get(key, Any)).validate_python(value)
        except ValidationError as error:
            expected = _type_text(hints.get(key, Any))
            raise TopologyError(
                f"topology {name!r}: option {key}={value!r}, expected {expected}"
            ) from error
    return checked


def _text(error: Exception) -> str:
    """Name an exception as the last line of a traceback does."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _place(builder: Builder, error: Exception) -> str:
    """Say where in the topology's own file *error* was raised, or else where its function is."""
    code = getattr(inspect.unwrap(builder), "__code__", None)
    if code is None:  # a class, or a function made of another
        return ""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == code.co_filename]
    return f" at {code.co_filename}:{lines[-1] if lines else code.co_firstlineno}"


def _type_text(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " | ".join(str(choice) for choice in get_args(hint))
    return getattr(hint, "__name__", str(hint))
