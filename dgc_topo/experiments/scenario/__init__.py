"""Scenario files: their sections and keys, and how they are read and checked."""

from dgc_topo.experiments.scenario.load import ScenarioError, load_scenario, parse_scenario
from dgc_topo.experiments.scenario.scenario import Scenario
from dgc_topo.experiments.scenario.simulate import SimulateSection
from dgc_topo.experiments.scenario.variants import LadderSection, Variant

__all__ = [
    "LadderSection",
    "Scenario",
    "ScenarioError",
    "SimulateSection",
    "Variant",
    "load_scenario",
    "parse_scenario",
]
