"""What things in a lab are called: nothing outside it sees these names."""

from __future__ import annotations

INTERFACE = "eth0"  #: on every host, its end of the link to the switch
NETWORK = "10.77.0.0"
PREFIX_LENGTH = 16


def address_of(host: int) -> str:
    """Return a host's IPv4 address, the same in every lab."""
    return f"10.77.0.{host + 1}"


def hardware_address_of(host: int) -> str:
    """Return the Ethernet address of a host's interface."""
    return f"02:00:00:00:00:{host + 1:02x}"
