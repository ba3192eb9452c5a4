"""Networks that a scenario names."""

from __future__ import annotations

from functools import lru_cache

from dgc_topo.experiments.scenario.scenario import Scenario
from dgc_topo.network.fabrics import known_fabrics, load_fabric
from dgc_topo.network.files import Calibrated, SimGrid
from dgc_topo.network.kinds import BuiltNetwork, usable_fabrics
from dgc_topo.network.tables import NetworkChoice
from dgc_topo.tables.keys import at_key


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
