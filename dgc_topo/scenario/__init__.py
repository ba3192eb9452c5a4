"""Scenario files: how people say what they want."""

from dgc_topo.scenario.compression import CompressionSection, LadderSection, Rung
from dgc_topo.scenario.scenario import (
    Scenario,
    ScenarioError,
    SimulateSection,
    TopologyChoice,
    TrainSection,
    load_scenario,
    parse_scenario,
)

__all__ = [
    "CompressionSection",
    "LadderSection",
    "Rung",
    "Scenario",
    "ScenarioError",
    "SimulateSection",
    "TopologyChoice",
    "TrainSection",
    "load_scenario",
    "parse_scenario",
]
