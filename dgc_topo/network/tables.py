"""Networks that a scenario file describes: ``[[networks]]`` tables, and what they become.

``[simulate] networks`` names them beside the fabrics.  As with fabrics, a network grows with the
number of ranks, unless its table says how large it is.  Hosts are numbered from 0; links are named
as the network names them: ``host 3 up`` and ``host 3 down`` around one switch, else ``host 3 ->
rack 0``, ``rack 0 -> core`` and so on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from dgc_topo.network.files import Calibrated, SimGrid
from dgc_topo.network.kinds import (
    FatTree,
    GpuHosts,
    Racks,
    Ring,
    Star,
    Torus,
)

if TYPE_CHECKING:
    pass


NetworkChoice = Annotated[
    Star | Racks | FatTree | Ring | Torus | GpuHosts | SimGrid | Calibrated,
    Field(discriminator="kind"),
]
