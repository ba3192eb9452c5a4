"""Scenario files: how people say what they want."""

from dgc_topo.scenario.compression import CompressionSection, LadderSection, Rung
from dgc_topo.scenario.load import ScenarioError, load_scenario, parse_scenario
from dgc_topo.scenario.scenario import Scenario
from dgc_topo.scenario.simulate import SimulateSection
from dgc_topo.scenario.topologies import TopologyChoice
from dgc_topo.scenario.train import TrainSection

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
