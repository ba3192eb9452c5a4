"""Settings of a scenario that have to be the same on every rank."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dgc_topo.experiments.scenario import Scenario
from dgc_topo.runtime.comparison import topology_settings

_OF_A_MACHINE = {"data_path", "folder"}  #: of ``[train]``: may be others on every machine


def compared_settings(scenario: Scenario) -> dict[str, Any]:
    """Return what has to be the same on every rank that trains, by its key in the scenario."""
    sections = {
        "train": scenario.train and scenario.train.model_dump(mode="json", exclude=_OF_A_MACHINE),
        "compression": scenario.compression.model_dump(mode="json"),
    }
    world_size = scenario.train.world_size if scenario.train else 1
    topologies = [
        topology_settings(choice.load(), world_size, scenario.seed)
        for choice in scenario.topologies
    ]
    # A launch has one.
    about = topologies[0] if len(topologies) == 1 else {"topologies": topologies}
    return {"seed": scenario.seed, **about, **dict(_flat("", sections))}


def _flat(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the numbers and texts in nested settings with their dotted keys."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(f"{key}.{name}" if key else name, inner)
    else:
        yield key, value
