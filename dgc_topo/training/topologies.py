"""Which topologies an experiment is about: ``[[topologies]]``."""

from __future__ import annotations

from contextlib import suppress

from pydantic import Field

from dgc_topo.plugins import TopologyError, is_file
from dgc_topo.tables.places import FolderOfScenario, Label
from dgc_topo.tables.table import Table
from dgc_topo.topology import OptionValue, Topology, load_topology

_MOST_RANKS = 32  #: that a topology may need to say what it does


class TopologyChoice(Table):
    """A topology and its options."""

    name: Label = Field(
        description="an installed topology, or the path of a .py file, relative to the scenario"
    )
    options: dict[str, OptionValue] = Field(default_factory=dict)
    folder: FolderOfScenario = ""

    @property
    def is_file(self) -> bool:
        """Whether it is a file of the user's own."""
        return is_file(self.name)

    def load(self) -> Topology:
        """Return the topology with its options checked."""
        return load_topology(self.name, self.options, self.folder)

    @property
    def gossips(self) -> bool:
        """Whether it mixes parameters, which are never compressed, instead of an all-reduce."""
        topology = self.load()
        for world_size in range(2, _MOST_RANKS):
            with suppress(TopologyError):  # some begin with more
                return topology.schedule(world_size).goal != "all-reduce"
        return topology.schedule(_MOST_RANKS).goal != "all-reduce"
