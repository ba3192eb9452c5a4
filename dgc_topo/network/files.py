"""``[[networks]]`` tables that read another file: a SimGrid platform, or a calibration."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from dgc_topo.network import HostCosts, Network, read_simgrid
from dgc_topo.network.calibrated import CalibratedNetwork
from dgc_topo.network.kinds import NetworkTable
from dgc_topo.network.parts import EndCosts
from dgc_topo.tables.keys import Rate, at_key
from dgc_topo.tables.places import File


class SimGrid(NetworkTable):
    """What a SimGrid platform file describes."""

    kind: Literal["simgrid"]
    file: File = Field(description="XML, relative to the scenario file")

    def draw(self, world_size: int) -> Network:
        """As `NetworkTable.draw`."""
        del world_size
        with at_key("file"):
            return read_simgrid(self.file)


class Calibrated(NetworkTable):
    """What 'dgc-topo calibrate' found: hosts around one switch, with what their messages cost."""

    kind: Literal["calibrated"]
    file: File = Field(description="network file, relative to the scenario file")
    rate: Rate = Field(default=None, description="of every link; that of the file if left out")

    @model_validator(mode="after")
    def _costs_come_from_the_file(self) -> Self:
        said = sorted(self.model_fields_set & set(EndCosts.model_fields))
        if said:
            raise ValueError(f"{', '.join(said)}: come from the network file, expected none here")
        return self

    def draw(self, world_size: int) -> Network:
        """As `NetworkTable.draw`."""
        with at_key("file"):
            return CalibratedNetwork.load(self.file).network(world_size, self.rate)

    def costs(self, network: Network) -> HostCosts:
        """Return what the file says."""
        return network.costs
