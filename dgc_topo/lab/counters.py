"""What the hosts' interfaces counted, and whether that is what was sent."""

from __future__ import annotations

from dataclasses import astuple, dataclass


@dataclass(frozen=True, slots=True)
class HostCounters:
    """What one host's interface has counted: since it was made, or between two readings.

    Bytes are whole frames, Ethernet header included, as the kernel hands them to the interface.
    """

    tx_bytes: int
    tx_packets: int
    rx_bytes: int
    rx_packets: int
    tx_dropped: int  #: packets that found the up link's queue full
    rx_dropped: int  #: packets that found the down link's queue full

    def __sub__(self, earlier: HostCounters) -> HostCounters:
        """Return what was counted since *earlier*."""
        pairs = zip(astuple(self), astuple(earlier), strict=True)
        return HostCounters(*(now - before for now, before in pairs))
