"""Read scenario files: what to train, over which topologies, and for which networks to predict.

A scenario is one TOML file.  Units are in the keys; an unknown key, a bad value, an unknown
topology or network, or an impossible world size is an error that names file and key and lists what
is valid.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from pydantic import ValidationError

from dgc_topo.scenario.explain import explain
from dgc_topo.scenario.networks import build_network
from dgc_topo.scenario.scenario import Scenario


class ScenarioError(ValueError):
    """A scenario file that says something impossible; the text names file and key."""


def load_scenario(path: Path) -> Scenario:
    """Return the scenario in the file *path*, checked as a whole.

    Raises:
        ScenarioError: naming the file, the key and what was expected there.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path}: cannot be read: {error}") from error
    return parse_scenario(text, str(path), path.parent)


def parse_scenario(text: str, where: str = "scenario", folder: Path = Path()) -> Scenario:
    """Return the scenario that *text* (TOML) describes.

    Args:
        text: Contents of a scenario file.
        where: Names it in errors.
        folder: Where files are that it names.

    Raises:
        ScenarioError: as `load_scenario`.
    """
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # numbers and nesting have limits, too
        raise ScenarioError(f"{where}: not valid TOML: {error}") from error
    try:
        scenario = Scenario.model_validate(tables, context={"folder": folder})
    except ValidationError as error:
        lines = [f"{where}: {explain(dict(problem), Scenario)}" for problem in error.errors()]
        raise ScenarioError("\n".join(lines)) from error
    _check_topologies(scenario, where)
    _check_networks(scenario, where)
    return scenario


_TRAINED = "all-reduce", "doubly-stochastic"  #: goals that keep the ranks' average


def _check_topologies(scenario: Scenario, where: str) -> None:
    sizes = _world_sizes(scenario)
    for index, choice in enumerate(scenario.topologies):
        try:
            topology = choice.load()
        except ValueError as error:
            raise ScenarioError(f"{where}: topologies[{index}]: {error}") from error
        if scenario.train and scenario.train.workers == "virtual" and choice.gossips:
            raise ScenarioError(
                f"{where}: topologies[{index}]: {choice.name} with train.workers = 'virtual': in "
                "gossip every rank has parameters of its own, expected 'processes'"
            )
        for key, world_sizes in sizes.items():
            for world_size in world_sizes:
                try:
                    goal = topology.schedule(world_size).goal
                except ValueError as error:
                    raise ScenarioError(f"{where}: {key}: {error}") from error
                if key != "simulate.world_sizes" and goal not in _TRAINED:
                    raise ScenarioError(
                        f"{where}: topologies[{index}]: {choice.name} is {goal}, expected "
                        f"{' or '.join(_TRAINED)} to train over"
                    )


def _world_sizes(scenario: Scenario) -> dict[str, tuple[int, ...]]:
    """Return all world sizes that the topologies must take, by key."""
    sizes: dict[str, tuple[int, ...]] = {}
    if scenario.train:
        sizes["train.world_size"] = (scenario.train.world_size,)
    if scenario.ladder:
        sizes["ladder.world_sizes"] = scenario.ladder.world_sizes
    if scenario.simulate:
        sizes["simulate.world_sizes"] = scenario.simulate.world_sizes
    return sizes


def _check_networks(scenario: Scenario, where: str) -> None:
    names = [network.name for network in scenario.networks]
    for index, name in enumerate(names):
        if name in names[:index]:
            first = names.index(name)
            raise ScenarioError(
                f"{where}: networks[{index}].name: {name!r} is that of networks[{first}], too"
            )
    if scenario.simulate is None:
        return
    for index, name in enumerate(scenario.simulate.networks):
        for world_size in scenario.simulate.world_sizes:
            try:
                build_network(name, scenario, world_size)
            except ValueError as error:
                key = "" if name in names else f"simulate.networks[{index}]: "
                raise ScenarioError(f"{where}: {key}{error}") from error
