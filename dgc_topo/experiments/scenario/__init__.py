"""Scenario files: how people say what they want."""

from dgc_topo.experiments.scenario.ladder import LadderSection, Rung
from dgc_topo.experiments.scenario.load import ScenarioError, load_scenario, parse_scenario
from dgc_topo.experiments.scenario.scenario import Scenario
from dgc_topo.experiments.scenario.simulate import SimulateSection

__all__ = [
    "LadderSection",
    "Rung",
    "Scenario",
    "ScenarioError",
    "SimulateSection",
    "load_scenario",
    "parse_scenario",
]
