"""Read SimGrid platform files (https://simgrid.org/doc/latest/Platform.html).

Understood are ``<zone>`` (or ``<AS>``) of routing Full, Floyd, Dijkstra, DijkstraCache, Cluster,
Vivaldi and None, one within another; in them ``<cluster>`` (flat, torus or fat tree),
``<cabinet>``, ``<peer>``, ``<host>``, ``<router>``, ``<link>``, ``<host_link>``, ``<backbone>``,
``<route>``, ``<zoneRoute>`` (``<ASroute>``) and their bypasses.  Routes are those that SimGrid
takes.

Numbers are taken as written: SimGrid's own TCP corrections (97 % of the bandwidth, 13 times the
latency, 5 % of the way back; its LV08 model) are not applied, whatever a ``<config>`` says of them.

Ignored, for they say nothing about communication: speeds and cores, a ``<prop>`` or ``<config>``,
disks and storage, actors (processes), loopbacks (a message to oneself costs nothing), and how the
speed of a host changes.  Everything else is refused by name: links and hosts that change or fail
over time (a scenario can say so), Wi-Fi, dragonflies, entities, and whatever contradicts itself.
"""

from __future__ import annotations

from pathlib import Path

from dgc_topo.network.costs import EndCosts
from dgc_topo.network.network import Network
from dgc_topo.network.simgrid.markup import parse_markup
from dgc_topo.network.simgrid.platform import build_network
from dgc_topo.network.simgrid.reader import read_platform

__all__ = ["read_simgrid"]


def read_simgrid(path: Path | str, *, costs: EndCosts | None = None) -> Network:
    """Return the network that a SimGrid platform file describes.

    Hosts are numbered in the order of the file, those of a cluster in the order of its radical.

    Args:
        path: A file with one ``<cluster>`` or one ``<zone>`` of whatever the module describes.
        costs: What a message costs at its ends; nothing if left out.

    Raises:
        ValueError: naming the file, line and element, if it isn't such a file.
    """
    try:
        return build_network(read_platform(parse_markup(Path(path).read_bytes())), costs)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
