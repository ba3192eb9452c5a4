"""Which topologies an experiment is about: ``[[topologies]]``."""

from __future__ import annotations

from pydantic import Field

from dgc_topo.scenario.step import Section
from dgc_topo.topology import OptionValue, Topology, load_topology


class TopologyChoice(Section):
    """A topology and its options."""

    name: str = Field(description="an installed topology, or the path of a .py file")
    options: dict[str, OptionValue] = Field(default_factory=dict)

    def load(self) -> Topology:
        """Return the topology with its options checked."""
        return load_topology(self.name, self.options)

    @property
    def gossips(self) -> bool:
        """Whether it mixes parameters, which are never compressed, instead of an all-reduce."""
        return self.load().schedule(2).goal != "all-reduce"
