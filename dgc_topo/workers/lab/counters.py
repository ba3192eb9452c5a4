"""Counters of the hosts' interfaces, compared with the bytes that a run reports."""

from __future__ import annotations

from dataclasses import astuple, dataclass

#: Of a TCP segment: Ethernet 14, IPv4 20, TCP 20 and its time stamps 12.
HEADER_BYTES = 66
#: Gloo's own bytes for each message at either end: announcements and a preamble.
_GLOO_BYTES_PER_MESSAGE = 128
#: Opening connections, barriers, and other traffic around a run.
_AROUND_BYTES = 64_000
_SEGMENT_BYTES = 1448


class CounterError(RuntimeError):
    """An interface counted other bytes than its host's processes report."""


@dataclass(frozen=True, slots=True)
class HostCounters:
    """Counters of one host's interface: since it was made, or between two readings.

    Bytes are whole frames, Ethernet header included, as the kernel hands them to the interface.

    Attributes:
        tx_bytes: Bytes sent.
        tx_packets: Packets sent.
        rx_bytes: Bytes received.
        rx_packets: Packets received.
        tx_dropped: Packets that found the up link's queue full.
        rx_dropped: Packets that found the down link's queue full.
        tx_resent: Segments that the host's TCP sent again.
    """

    tx_bytes: int
    tx_packets: int
    rx_bytes: int
    rx_packets: int
    tx_dropped: int
    rx_dropped: int
    tx_resent: int

    @property
    def carried_bytes(self) -> int:
        """Payload of TCP sent: bytes less `HEADER_BYTES` for each packet.

        Exact where all packets are TCP's: acknowledgements are packets without payload.
        """
        return self.tx_bytes - HEADER_BYTES * self.tx_packets

    def __sub__(self, earlier: HostCounters) -> HostCounters:
        """Return the counts since *earlier*."""
        pairs = zip(astuple(self), astuple(earlier), strict=True)
        return HostCounters(*(now - before for now, before in pairs))


def check_sent(counted: HostCounters, sent_bytes: float, num_messages: float, where: str) -> float:
    """Compare the bytes that a host's processes say they sent with its interface's count.

    The interface must have carried ``sent_bytes``, plus at most 128 bytes for each message (Gloo
    announces it at both ends), 64 kB for opening connections, and 1448 for each segment that TCP
    sent again because a queue was full.  Less means that messages took another
    way than the network.

    Args:
        counted: Counts between before and after.
        sent_bytes: Bytes that the runtime counted (`dgc_topo.runtime.Traffic.bytes_sent`).
        num_messages: Sent and received.
        where: Name of the host for the error, such as ``host 3``.

    Returns:
        Bytes carried beyond those sent, as a share of those sent.

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
