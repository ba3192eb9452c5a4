"""Find a topology by name or file, check its options, and build its schedules.

A topology is one function ``schedule(world_size, **options) -> Schedule`` in one file.  It is found
through the entry-point group ``dgc_topo.topologies``, or by the path of its ``.py`` file.  If the
function takes ``iteration`` or ``seed`` its schedule may differ from one iteration to the next.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from dgc_topo.arrays import IntArray
from dgc_topo.plugins import (
    Builder,
    TopologyError,
    at_place,
    builder_of,
    explained,
    known_topologies,
)
from dgc_topo.schedule import Schedule, Step, check_is_step
from dgc_topo.text import name_of

__all__ = [
    "MAX_WORLD_SIZE",
    "Builder",
    "OptionValue",
    "Topology",
    "TopologyError",
    "known_topologies",
    "load_topology",
    "option_choices",
]

OptionValue = str | int | float | bool
MAX_WORLD_SIZE = 10**7  #: ranks; the arrays of more take more memory than a machine has

_BUILD_ARGUMENTS = ("iteration", "seed")  # given by the run, not by the user


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
        inside = ", ".join(f"{key}={value}" for key, value in self.plain_options.items())
        return f"{self.name}({inside})" if inside else self.name

    @property
    def plain_options(self) -> dict[str, OptionValue]:
        """The options as JSON values, which `load_topology` takes as well.

        A function may declare other types, such as an enumeration or a path.
        """
        plain: dict[str, OptionValue] = to_jsonable_python(dict(self.options), fallback=str)
        return plain

    @property
    def varies(self) -> bool:
        """Whether the schedule may depend on the iteration."""
        return "iteration" in _parameters(self.builder)

    @property
    def is_seeded(self) -> bool:
        """Whether the schedule may depend on the seed."""
        return "seed" in _parameters(self.builder)

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
        self._check_numbers(world_size, iteration, seed)
        given = {"iteration": iteration, "seed": seed}
        wanted = {k: v for k, v in given.items() if k in _parameters(self.builder)}
        with explained(self.label, self.builder):
            built = self.builder(world_size, **self.options, **wanted)
        if not isinstance(built, Schedule):
            raise TopologyError(
                f"{self.label}: its function returned {type(built).__name__}, expected a Schedule"
            )
        if built.world_size != world_size:
            raise TopologyError(
                f"{self.label}: its schedule has {built.world_size} ranks, expected {world_size}"
            )
        return replace(built, steps_of=lambda ranks: self._steps(built, ranks))

    def _check_numbers(self, world_size: int, iteration: int, seed: int) -> None:
        if not 1 <= world_size <= MAX_WORLD_SIZE:
            most = f"at most {MAX_WORLD_SIZE}" if world_size > 1 else "at least 1"
            raise TopologyError(f"{self.label}: world_size {world_size}, expected {most}")
        for name, value in (("iteration", iteration), ("seed", seed)):
            if value < 0:
                raise TopologyError(f"{self.label}: {name} {value}, expected 0 or more")

    def _steps(self, built: Schedule, ranks: IntArray) -> Iterator[Step]:
        """Yield the steps of *built*; the topology's function may make them only now."""
        with explained(self.label, self.builder):
            for index, step in enumerate(built.steps_of(ranks)):
                check_is_step(index, step)
                yield step


def load_topology(
    name: str, options: Mapping[str, OptionValue] | None = None, folder: str | Path = ""
) -> Topology:
    """Return the topology called *name*, or defined in the ``.py`` file *name*.

    Args:
        name: An installed name, or a path that ends in ``.py``.
        options: The topology's own options; text is converted to the declared type.
        folder: Where the file is if its path is relative; the current folder by default.

    Raises:
        TopologyError: if there is no such topology or option, listing the valid ones.
    """
    builder = builder_of(name, folder)
    return Topology(name, builder, _checked_options(name, builder, options or {}))


def option_choices(builder: Builder) -> dict[str, str]:
    """Return each option of a topology with its default and choices, as text."""
    hints = get_type_hints(builder)
    return {
        key: f"{_type_text(hints.get(key, Any))} (default {parameter.default})"
        for key, parameter in _options(builder).items()
    }


def _parameters(builder: Builder) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(builder).parameters


def _options(builder: Builder) -> dict[str, inspect.Parameter]:
    after_world_size = list(_parameters(builder).items())[1:]
    return {key: p for key, p in after_world_size if key not in _BUILD_ARGUMENTS}


def _checked_options(
    name: str, builder: Builder, options: Mapping[str, OptionValue]
) -> dict[str, OptionValue]:
    try:
        allowed, hints = _options(builder), get_type_hints(builder)
    except Exception as error:
        at = at_place(builder, error)
        raise TopologyError(
            f"topology {name!r}: its function's types cannot be read: {name_of(error)}{at}, "
            "expected names that its module imports"
        ) from error
    checked: dict[str, OptionValue] = {}
    for key, value in options.items():
        if key not in allowed:
            listed = ", ".join(allowed) or "none"
            raise TopologyError(f"topology {name!r}: unknown option {key!r}; it takes: {listed}")
        hint = hints.get(key, Any)
        wrong = f"topology {name!r}: option {key}={value!r}, expected {_type_text(hint)}"
        if isinstance(value, bool) and hint in {int, float}:  # pydantic would take it for 1
            raise TopologyError(wrong)
        try:
            checked[key] = TypeAdapter(hint).validate_python(value)
        except (ValidationError, PydanticUserError) as error:
            raise TopologyError(wrong) from error
    return checked


def _type_text(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " | ".join(str(choice) for choice in get_args(hint))
    return getattr(hint, "__name__", str(hint))
