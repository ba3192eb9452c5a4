"""A topology: a family of schedules, as one value from the command line to the records.

A topology is one function ``schedule(world_size, **options) -> Schedule`` in one file.  It is found
through the entry-point group ``dgc_topo.topologies``, or by the path of its ``.py`` file.  If the
function takes ``iteration`` or ``seed`` its schedule may differ from one iteration to the next.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from types import FunctionType, MappingProxyType
from typing import Any, ClassVar

from pydantic import Field, GetCoreSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema, to_jsonable_python

from dgc_topo.arrays import IntArray
from dgc_topo.plugins import (
    Builder,
    TopologyError,
    builder_of,
    explained,
    is_file,
    is_from_file,
    known_topologies,
)
from dgc_topo.scalars import plain_int
from dgc_topo.schedule import Goal, Schedule, Step, check_is_step
from dgc_topo.schedule.views import same_transfers
from dgc_topo.tables.places import FolderOfScenario, Label
from dgc_topo.tables.table import Table
from dgc_topo.topology_options import (
    OptionValue,
    checked_options,
    joined_text,
    option_choices,
    parameters_of,
    split_text,
)

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

MAX_WORLD_SIZE = 10**7  #: ranks; the arrays of more take more memory than a machine has

_MOST_RANKS = 32  # that a topology may need before it says its goal


class TopologyTable(Table):
    """A topology as files and messages hold it."""

    name: Label = Field(
        description="an installed topology, or the path of a .py file, relative to the scenario"
    )
    options: dict[str, OptionValue] = Field(
        default_factory=dict, description="of the topology; 'dgc-topo topologies' lists them"
    )
    folder: FolderOfScenario = ""


@dataclass(frozen=True, slots=True, repr=False)
class Topology:
    """A named family of schedules with its options fixed; `load_topology` makes one.

    Topologies are equal if name, options, folder and function are equal.  An edited file is another
    topology.  Its text form ``name:key=value,key=value`` is ``str(topology)``, and `Topology.parse`
    reads it.

    Attributes:
        name: Installed name, or path of its file.
        builder: Function that builds its schedules.
        options: Checked options, passed to *builder*.
        folder: Folder in which a relative path begins; "" is the current one.
    """

    #: The table that files and messages hold instead of it.
    table_type: ClassVar = TopologyTable

    name: str
    builder: Builder
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    folder: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))

    @classmethod
    def named(
        cls, name: str, options: Mapping[str, OptionValue], folder: str | Path = ""
    ) -> Topology:
        """Return the topology called exactly *name*, see `load_topology`.

        Raises:
            TopologyError: if there is no such topology or option, listing the valid ones.
        """
        builder = builder_of(name, folder)
        is_relative = is_file(name) and not Path(name).is_absolute()
        checked = checked_options(name, builder, options)
        return cls(name, builder, checked, str(folder) if is_relative else "")

    @classmethod
    def parse(cls, text: str, folder: str | Path = "", options: Iterable[str] = ()) -> Topology:
        """Return the topology that *text* means: the inverse of ``str(topology)``.

        A value, or a path, in double quotes is read as a string of JSON; a value without them ends
        at the next comma.

        Args:
            text: ``name`` or ``name:key=value,key=value``; the name may be a path.
            folder: Where a relative path begins; the current folder by default.
            options: More options, each ``key=value`` with any character in its value.

        Raises:
            TopologyError: if that is not its form, or there is no such topology or option.
        """
        if not isinstance(text, str):
            raise TopologyError(f"topology {text!r}: expected a text")
        name, found = split_text(text, options)
        return cls.named(name, found, folder)

    def __str__(self) -> str:
        """Return the text form, from which `parse` makes an equal topology."""
        return joined_text(self.name, self.plain_options)

    def __repr__(self) -> str:
        """Return ``Topology('gossip', graph='ring')``."""
        given = "".join(f", {key}={value!r}" for key, value in self.plain_options.items())
        return f"Topology({self.name!r}{given})"

    def __hash__(self) -> int:
        """Return a hash that all equal ones share, whatever their options hold."""
        return hash((self.name, self.folder, frozenset(self.options)))

    def __reduce__(self) -> tuple[Callable[..., Topology], tuple[Any, ...]]:
        """Pickle it; the function of a file is found again by its path."""
        if is_from_file(self.builder):
            return Topology.named, (self.name, self.plain_options, self.folder)
        return Topology, (self.name, self.builder, dict(self.options), self.folder)

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
    def is_file(self) -> bool:
        """True for a file of the user's own, False for an installed topology."""
        return is_file(self.name)

    @property
    def varies(self) -> bool:
        """True if the schedule may depend on the iteration."""
        return "iteration" in parameters_of(self.builder)

    @property
    def changes(self) -> bool:
        """True if its schedule is another one in some of the first iterations.

        A topology may take the iteration, and still not depend on it with its options.
        """
        return self.varies and _changes(self)

    @property
    def is_seeded(self) -> bool:
        """True if the schedule may depend on the seed."""
        return "seed" in parameters_of(self.builder)

    @property
    def goal(self) -> Goal:
        """Goal of its schedules, read from the schedule for the fewest possible ranks (from 2)."""
        return _smallest_of(self).goal

    @property
    def has_servers(self) -> bool:
        """True if some ranks of its schedules only serve, read as `goal` is."""
        return bool(_smallest_of(self).servers)

    @property
    def gossips(self) -> bool:
        """True if it mixes parameters, which are never compressed, instead of an all-reduce."""
        return self.goal != "all-reduce"

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
            seed: Seed of topologies that draw at random; the same on every rank.

        Raises:
            TopologyError: if the topology cannot run with this world size, or its function fails;
                the schedule's steps, which may be made later, raise it as well.
        """
        world_size, iteration, seed = self._plain_numbers(world_size, iteration, seed)
        given = {"iteration": iteration, "seed": seed}
        wanted = {k: v for k, v in given.items() if k in parameters_of(self.builder)}
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
        is_function = isinstance(built.steps_of, FunctionType)  # others may lie, or have no hash
        return (_explaining if is_function else _explaining.__wrapped__)(self, built)

    def _plain_numbers(self, world_size: int, iteration: int, seed: int) -> tuple[int, int, int]:
        """Return the numbers as Python's own, which topologies' functions need not check."""
        try:
            world_size = plain_int(f"{self.label}: world_size", world_size)
            iteration = plain_int(f"{self.label}: iteration", iteration, least=0)
            seed = plain_int(f"{self.label}: seed", seed, least=0)
        except ValueError as error:
            raise TopologyError(str(error)) from error
        if not 1 <= world_size <= MAX_WORLD_SIZE:
            most = f"at most {MAX_WORLD_SIZE}" if world_size > 1 else "at least 1"
            raise TopologyError(f"{self.label}: world_size {world_size}, expected {most}")
        return world_size, iteration, seed

    def _steps(self, built: Schedule, ranks: IntArray) -> Iterator[Step]:
        """Yield the steps of *built*; the topology's function may make them only now."""
        with explained(self.label, self.builder):
            for index, step in enumerate(built.steps_of(ranks)):
                check_is_step(index, step)
                yield step

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Read a topology, its text or its table; write its table."""
        return core_schema.with_info_plain_validator_function(
            read_topology,
            json_schema_input_schema=handler.generate_schema(str | TopologyTable),
            serialization=core_schema.plain_serializer_function_ser_schema(_table_of),
        )


def load_topology(
    source: str | Path | Topology,
    options: Mapping[str, OptionValue] | None = None,
    /,
    folder: str | Path = "",
    **more: OptionValue,
) -> Topology:
    """Return a topology by its name, its text form, or the path of its ``.py`` file.

    Args:
        source: ``"ring"``, ``"gossip:graph=ring"``, ``"mine.py:width=2"``, or a topology, which is
            returned as it is.
        options: The topology's own options; text is converted to the declared type.
        folder: Where the file is if its path is relative; the current folder by default.
        more: Options as well: ``load_topology("gossip", graph="ring")``.

    Raises:
        TopologyError: if there is no such topology or option, listing the valid ones.

    Example:
        >>> dt.load_topology("gossip", graph="ring")
        Topology('gossip', graph='ring')
        >>> str(dt.load_topology("hierarchical:group_size=4"))
        'hierarchical:group_size=4'
    """
    if isinstance(source, str):
        source = Topology.parse(source, folder)
    elif isinstance(source, os.PathLike):
        source = Topology.named(os.fspath(source), {}, folder)
    elif not isinstance(source, Topology):
        raise TopologyError(
            f"topology {source!r}: expected a name, the path of a .py file, or a Topology"
        )
    added = {**(options or {}), **more}
    if not added:
        return source
    return Topology.named(source.name, {**source.options, **added}, source.folder)


@lru_cache(maxsize=64)
def _explaining(topology: Topology, built: Schedule) -> Schedule:
    return replace(built, steps_of=lambda ranks: topology._steps(built, ranks))  # noqa: SLF001


@lru_cache(maxsize=256)
def _smallest_of(topology: Topology) -> Schedule:
    """Return the schedule for the fewest possible ranks, from 2."""
    for world_size in range(2, _MOST_RANKS):
        with suppress(TopologyError):  # some begin with more
            return topology.schedule(world_size)
    return topology.schedule(_MOST_RANKS)


@lru_cache(maxsize=256)
def _changes(topology: Topology) -> bool:
    """Return True if it changes for the fewest ranks, from 4, that it can be built for."""
    for world_size in range(4, _MOST_RANKS):
        with suppress(TopologyError):
            made = [list(topology.schedule(world_size, iteration=i).steps()) for i in range(6)]
            return any(
                len(steps) != len(made[0]) or not all(map(same_transfers, steps, made[0]))
                for steps in made
            )
    return True


def read_topology(value: object, info: ValidationInfo) -> Topology:
    """Return the topology that a file or a message holds: a text, a table, or the value itself."""
    if isinstance(value, Topology):
        return value
    if not isinstance(value, str | dict):
        text = f"{value!r}: expected a topology's name, or a table with name and options"
        raise ValueError(text)  # noqa: TRY004  # pydantic tells it with its key
    if isinstance(value, str):
        name, options = split_text(value)
        table = TopologyTable.model_validate({"name": name}, context=info.context)
        return Topology.named(table.name, options, table.folder)
    table = TopologyTable.model_validate(value, context=info.context)
    return Topology.named(table.name, table.options, table.folder)


def _table_of(topology: Topology) -> dict[str, object]:
    return {"name": topology.name, "options": topology.plain_options, "folder": topology.folder}
