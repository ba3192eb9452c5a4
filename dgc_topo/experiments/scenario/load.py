"""Reading and checking of scenario files.

A scenario is one TOML file.  Units are in the keys; an unknown key, a bad value, an unknown
topology or network, or an impossible world size is an error that names file and key and lists what
is valid.
"""

from __future__ import annotations

import os
import tomllib
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import tomli_w
from pydantic import ValidationError

from dgc_topo.averaging import Averaging
from dgc_topo.experiments.scenario.scenario import Scenario
from dgc_topo.experiments.shipped import scenario_path
from dgc_topo.records.room import FILES
from dgc_topo.schedule import Schedule
from dgc_topo.tables.explain import explain_all
from dgc_topo.topology import Topology


class ScenarioError(ValueError):
    """Error in a scenario file; the text names file and key."""


def load_scenario(path: str | Path) -> Scenario:
    """Return the scenario in a file, checked as a whole.

    Args:
        path: Scenario file, or the name of a scenario that comes with the package.

    Raises:
        ValueError: if there is no scenario of that name.
        ScenarioError: naming the file, the key and what was expected there.

    Example:
        >>> dt.load_scenario("quickstart").train.world_size
        4
    """
    file = scenario_path(path)
    return parse_scenario(read_scenario(file), str(file), file.parent)


def read_scenario(path: str | Path) -> str:
    """Return the text of a scenario file, without a byte-order mark.

    Raises:
        ScenarioError: if it cannot be read.
    """
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ScenarioError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ScenarioError(f"{path}: cannot be read: {error}, expected TOML in UTF-8") from error


class Kept(NamedTuple):
    """Copy of a scenario that a results folder keeps.

    Attributes:
        text: Text of ``scenario.toml``.
        files: Files that it uses, by the paths of their copies in ``files/``.
    """

    text: str
    files: dict[str, Path]


def kept_of(text: str, scenario: Scenario, folder: Path) -> Kept:
    """Return the copy of a scenario for a results folder, which can be run from there.

    Relative paths begin among the copies, so that the folder can be moved to another machine.  If
    they lead to data, or to files outside the scenario's folder, they begin where they did.

    Args:
        text: Content of the scenario file.
        scenario: Scenario that the text describes.
        folder: Folder of the file.
    """
    base = Path(os.path.abspath(folder / (scenario.folder or "")))  # noqa: PTH100  # drops ".."
    files: dict[str, Path] = {}
    all_inside = True
    for number, file in enumerate(scenario.files):
        path = Path(os.path.abspath(file))  # noqa: PTH100
        inside = path.is_relative_to(base)
        name = str(path.relative_to(base)) if inside else path.name
        files[f"{number}-{name}" if name in files else name] = file
        all_inside = all_inside and inside
    if scenario.folder is not None or not scenario.names_files:
        return Kept(text, files)
    can_move = all_inside and not scenario.names_uncopied
    start = FILES if can_move else str(base)
    return Kept(tomli_w.dumps({"folder": start}) + text, files)


def parse_scenario(text: str, where: str = "scenario", folder: Path = Path()) -> Scenario:
    """Return the scenario that *text* (TOML) describes.

    Args:
        text: Content of a scenario file.
        where: Name of the file in errors.
        folder: Folder in which the file's relative paths begin.

    Raises:
        ScenarioError: as `load_scenario`.
    """
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOML's numbers and nesting have limits, too
        raise ScenarioError(f"{where}: not valid TOML: {error}") from error
    said = tables.get("folder")
    try:
        scenario = Scenario.model_validate(
            tables,
            context={
                "folder": folder / said if isinstance(said, str) else folder,
                "file": where,
            },
        )
    except ValidationError as error:
        lines = [f"{where}: {line}" for line in explain_all(error, Scenario)]
        raise ScenarioError("\n".join(lines)) from error
    _check_topologies(scenario, where)
    _check_networks(scenario, where)
    return scenario


_TRAINED = "all-reduce", "doubly-stochastic"  #: goals that some rule takes if none is given
_TRAINING = "train", "ladder", "throughput"  #: sections whose runs train


def _check_topologies(scenario: Scenario, where: str) -> None:
    for index, topology in enumerate(scenario.topologies):
        if scenario.train and scenario.train.on_lost_rank == "continue" and not topology.gossips:
            raise ScenarioError(
                f"{where}: topologies.{index}: {topology.name} with train.on_lost_rank = "
                "'continue': all ranks of an all-reduce need the same sum, and some have what a "
                "lost one had given while others have not; expected gossip only, or 'stop' (with "
                "--max-restarts, the training goes on from a checkpoint)"
            )
        for key, world_sizes in _world_sizes(scenario, topology).items():
            for world_size in world_sizes:
                try:
                    goals = _goals(scenario) if key.partition(".")[0] in _TRAINING else ()
                    _check_schedule(topology.schedule(world_size), topology, goals)
                    _check_attendance(scenario.rules, topology, world_size)
                except ValueError as error:
                    raise ScenarioError(f"{where}: {key}: {error}") from error


def _check_attendance(rules: Sequence[Averaging], topology: Topology, world_size: int) -> None:
    for rule in rules:
        if rule.leaves_out and not rule.refusal_of(topology):
            try:
                rule.attendance(topology, world_size, seed=0).arranged(topology)
            except ValueError as error:
                raise ValueError(f"{world_size} with averaging {rule.label}: {error}") from error


def _goals(scenario: Scenario) -> Sequence[str]:
    """Return the goals of topologies that the scenario's rules can train over."""
    more = {goal for rule in scenario.rules for goal in rule.goals} - set(_TRAINED)
    return *_TRAINED, *sorted(more)


def _check_schedule(schedule: Schedule, topology: Topology, goals: Sequence[str]) -> None:
    """Refuse a schedule that cannot be run, or does not have one of some *goals*, if given.

    Raises:
        ValueError: saying why.
    """
    if topology.is_file:  # steps may be made lazily, and fail only here
        deque(schedule.steps(), maxlen=0)
    if goals and schedule.goal not in goals:
        rule = ", or averaging = 'push-sum'" if schedule.goal == "column-stochastic" else ""
        raise ValueError(
            f"{topology.name} is {schedule.goal}, expected {' or '.join(goals)} to train over{rule}"
        )


def _world_sizes(scenario: Scenario, topology: Topology) -> dict[str, tuple[int, ...]]:
    """Return all world sizes that a topology must be able to run with, by key."""
    sizes: dict[str, tuple[int, ...]] = {}
    if scenario.train:
        sizes["train.world_size"] = (scenario.train.world_size,)
    if scenario.ladder:
        sizes["ladder.world_sizes"] = scenario.ladder.world_sizes
    if scenario.simulate:
        sizes["simulate.world_sizes"] = scenario.simulate.world_sizes
    if scenario.throughput and scenario.throughput.goes_over(topology.name):
        sizes["throughput.world_sizes"] = scenario.throughput.world_sizes
    if scenario.validation:
        sizes["validate.world_sizes"] = scenario.validation.world_sizes
        for index, extra in enumerate(scenario.validation.extra):
            sizes[f"validate.extra.{index}.world_sizes"] = extra.world_sizes
    return sizes


def _check_networks(scenario: Scenario, where: str) -> None:
    if scenario.sweep is not None:
        for index, name in enumerate(scenario.sweep.network):
            try:
                scenario.network(str(name))
            except ValueError as error:
                raise ScenarioError(f"{where}: sweep.network[{index}]: {error}") from error
    if scenario.simulate is None:
        return
    for index, name in enumerate(scenario.simulate.networks):
        for world_size in scenario.simulate.world_sizes:
            try:
                scenario.cluster(name, world_size)
            except ValueError as error:
                key = "" if str(error).startswith("networks[") else f"simulate.networks[{index}]: "
                raise ScenarioError(f"{where}: {key}{error}") from error
