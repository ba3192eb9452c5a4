"""What the hosts' interfaces counted, and whether that is what was sent."""

from __future__ import annotations

from dataclasses import astuple, dataclass

#: Of a TCP segment: Ethernet 14, IPv4 20, TCP 20 and its time stamps 12.
HEADER_BYTES = 66
#: What Gloo sends for each message at either end: announcements and a preamble.
_GLOO_BYTES_PER_MESSAGE = 128
#: Opening connections, barriers, and other traffic around a run.
_AROUND_BYTES = 64_000
_SEGMENT_BYTES = 1448


class CounterError(RuntimeError):
    """An interface counted something else than what was said to be sent."""


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
    tx_resent: int  #: segments that the host's TCP sent again

    @property
    def carried_bytes(self) -> int:
        """Payload of TCP sent: bytes less `HEADER_BYTES` for each packet.

        Exact where all packets are TCP's: acknowledgements are packets without payload.
        """
        return self.tx_bytes - HEADER_BYTES * self.tx_packets

    def __sub__(self, earlier: HostCounters) -> HostCounters:
        """Return what was counted since *earlier*."""
        pairs = zip(astuple(self), astuple(earlier), strict=True)
        return HostCounters(*(now - before for now, before in pairs))


def check_sent(counted: HostCounters, sent_bytes: float, num_messages: float, where: str) -> float:
    """Compare what a host's processes say they sent with what its interface counted.

    The interface must have carried ``sent_bytes``, plus at most 128 bytes for each message (Gloo
    announces it at both ends), 64 kB for opening connections, and 1448 for each segment that TCP
    sent again because a queue was full.  Less means that messages took another
    way than the network.

    Args:
        counted: Between before and after.
        sent_bytes: What the executor says (`dgc_topo.runtime.Traffic.bytes_sent`).
        num_messages: Sent and received.
        where: Such as ``host 3``, for the error.

    Returns:
        How many bytes more were carried than said, as a share of what was said.

    Raises:
        CounterError: if they disagree by more.
    """
    carried = counted.carried_bytes
    most = sent_bytes + _GLOO_BYTES_PER_MESSAGE * num_messages + _AROUND_BYTES
    most += _SEGMENT_BYTES * counted.tx_resent
    if not sent_bytes <= carried <= most:
        raise CounterError(
            f"{where}: the interface carried {carried} bytes of payload ({counted.tx_bytes} in "
            f"{counted.tx_packets} packets of {HEADER_BYTES} bytes of headers; {counted.tx_resent} "
            f"segments sent again), expected {sent_bytes:.0f} to {most:.0f}"
        )
    return (carried - sent_bytes) / sent_bytes if sent_bytes else 0.0
