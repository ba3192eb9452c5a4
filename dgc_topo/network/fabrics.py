"""Named fabrics: bandwidth and latency of well-known networks, each with its source."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from dgc_topo.network.costs import EndCosts
from dgc_topo.network.network import Network, star

_FRAMING = "MTU 1500 framing arithmetic (1448 payload bytes of 1538 on the wire)"
_OSU = "OSU benchmarks, public gist 2021"


@dataclass(frozen=True, slots=True)
class Fabric:
    """A network of equal hosts around one switch.

    Attributes:
        name: Name for people.
        bandwidth_bytes_per_s: Payload bytes per second of a host's port, each way.
        latency_s: Latency of a small message one way, host to host (alpha).
        source: Source of the numbers.

    Raises:
        ValueError: if the bandwidth is not above 0 or the latency is below 0.
    """

    name: str
    bandwidth_bytes_per_s: float
    latency_s: float
    source: str

    def __post_init__(self) -> None:
        if not 0 < self.bandwidth_bytes_per_s < float("inf"):
            value = self.bandwidth_bytes_per_s
            raise ValueError(f"fabric {self.name}: bandwidth {value} bytes/s, expected above 0")
        if not 0 <= self.latency_s < float("inf"):
            raise ValueError(f"fabric {self.name}: latency {self.latency_s} s, expected 0 or more")

    def star(self, num_hosts: int, *, costs: EndCosts | None = None) -> Network:
        """Return a star of *num_hosts* hosts; each of a route's two links has half the latency."""
        return star(num_hosts, self.bandwidth_bytes_per_s, self.latency_s / 2, costs=costs)


FABRICS = {
    fabric.name: fabric
    for fabric in (
        Fabric("1gbe", 116.2e6, 25e-6, f"MPI over TCP: {_OSU}; wire 117.7 MB/s by {_FRAMING}"),
        Fabric(
            "10gbe", 1.177e9, 25e-6, f"bandwidth: {_FRAMING}; latency assumed as 1 GbE over TCP"
        ),
        Fabric("25gbe", 2.94e9, 25e-6, f"bandwidth: {_FRAMING}; latency assumed as 1 GbE over TCP"),
        Fabric(
            "100gbe",
            11.77e9,
            25e-6,
            f"bandwidth: {_FRAMING}, a ceiling (TCP through NCCL gets 4-6 GB/s: NCCL issue 450); "
            "latency assumed as 1 GbE over TCP",
        ),
        Fabric("ib-fdr", 6.0e9, 3e-6, "ATLAHS HPC set; GPUDirect manual (5.6-6.4 GB/s)"),
        Fabric("ib-edr", 10.3e9, 0.95e-6, f"{_OSU} (10.3 GB/s at 32 KiB, 12.5 nominal)"),
        Fabric("ib-hdr", 24e9, 1.2e-6, "Azure HBv3"),
        Fabric("ib-ndr", 50e9, 1.2e-6, "bandwidth nominal; latency not measured, taken from HDR"),
        Fabric("nvlink", 400e9, 0.94e-6, "H100 NVSwitch: ASTRA-sim docs (per ring step, modelled)"),
    )
}


def known_fabrics() -> tuple[str, ...]:
    """Return the names that `load_fabric` knows.

    Example:
        >>> "1gbe" in dt.known_fabrics()
        True
    """
    return (*FABRICS, "ideal")


def load_fabric(
    name: str,
    *,
    bandwidth_bytes_per_s: float | None = None,
    link_latency_s: float | None = None,
) -> Fabric:
    """Return a named fabric.

    Args:
        name: One of `known_fabrics`; capitals and spaces do not matter.  ``ideal`` has the
            bandwidth and latency of the other two arguments.
        bandwidth_bytes_per_s: Bandwidth of every link; for ``ideal`` only, which needs it.
        link_latency_s: Latency per link, for ``ideal`` only, by default 0; host to host is two
            links.

    Raises:
        ValueError: if there is no such fabric, or the other arguments do not fit it.
    """
    name = find_fabric(name) or name
    if name == "ideal":
        if bandwidth_bytes_per_s is None:
            raise ValueError("fabric ideal: no bandwidth, expected bandwidth_bytes_per_s")
        return Fabric(name, bandwidth_bytes_per_s, 2 * (link_latency_s or 0.0), "given")
    if name not in FABRICS:
        raise ValueError(f"fabric {name!r}: unknown, expected one of {like_fabric(name)}")
    if bandwidth_bytes_per_s is not None or link_latency_s is not None:
        raise ValueError(
            f"fabric {name}: bandwidth and latency are fixed, expected 'ideal' to set them"
        )
    return FABRICS[name]


def find_fabric(name: str) -> str | None:
    """Return the fabric called *name*, however spelt (``10 gbe``, ``ib_hdr``), or None."""
    spellings = {_letters(known): known for known in known_fabrics()}
    return spellings.get(_letters(name))


def like_fabric(name: str, *others: str) -> str:
    """Return a text for errors: all fabrics and *others*, and the names most like *name*."""
    likely = difflib.get_close_matches(name.lower(), known_fabrics(), n=1)
    hint = f"; did you mean {likely[0]!r}?" if likely else ""
    return f"{', '.join((*known_fabrics(), *others))}{hint}"


def _letters(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name.lower())
