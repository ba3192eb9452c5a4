"""Scenario files: how people say what they want."""

from dgc_topo.scenario.scenario import (
    CompressionSection,
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
    "Scenario",
    "ScenarioError",
    "SimulateSection",
    "TopologyChoice",
    "TrainSection",
    "load_scenario",
    "parse_scenario",
]
