"""Networks that a scenario file describes: ``[[networks]]`` tables, and what they become.

``[simulate] networks`` names them beside the fabrics.  As with fabrics, a network grows with the
number of ranks, unless its table says how large it is.  Hosts are numbered from 0; links are named
as the network names them: ``host 3 up`` and ``host 3 down`` around one switch, else ``host 3 ->
rack 0``, ``rack 0 -> core`` and so on.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from dgc_topo.scenario.network_files import Calibrated, SimGrid
from dgc_topo.scenario.network_kinds import (
    BuiltNetwork,
    FatTree,
    GpuHosts,
    Racks,
    Ring,
    Star,
    Torus,
    usable_fabrics,
)
from dgc_topo.scenario.network_parts import at_key
from dgc_topo.simulate import known_fabrics, load_fabric

if TYPE_CHECKING:
    from dgc_topo.scenario import Scenario

__all__ = ["BuiltNetwork", "NetworkChoice", "build_network"]

NetworkChoice = Annotated[
    Star | Racks | FatTree | Ring | Torus | GpuHosts | SimGrid | Calibrated,
    Field(discriminator="kind"),
]


def build_network(name: str, scenario: Scenario, world_size: int) -> BuiltNetwork:
    """Return a scenario's network, or the star of a fabric, for *world_size* ranks.

    Args:
        name: As in ``[simulate] networks``.
        scenario: Where networks are described.
        world_size: Number of ranks.

    Raises:
        ValueError: if there is no such network, listing all; or naming the key that makes no sense
            with so many ranks.
    """
    own = {table.name: index for index, table in enumerate(scenario.networks)}
    if name in own:
        with at_key(f"networks[{own[name]}] ({name}) with {world_size} ranks"):
            table = scenario.networks[own[name]]
            if isinstance(table, SimGrid | Calibrated):  # its file may change
                return table.build(world_size)
            return _build(table, world_size)
    if name not in known_fabrics():
        listed = ", ".join(own) or "none"
        raise ValueError(
            f"network {name!r}: unknown, expected one of [[networks]] ({listed}) "
            f"or a fabric ({', '.join(usable_fabrics())})"
        )
    return BuiltNetwork(load_fabric(name).star(world_size), None, None, ())


@lru_cache(maxsize=32)  # a network keeps its routes: one serves all runs of a size
def _build(table: NetworkChoice, world_size: int) -> BuiltNetwork:
    return table.build(world_size)
