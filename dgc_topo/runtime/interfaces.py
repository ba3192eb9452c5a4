"""Network interfaces of this process: bytes that each has sent, and its line rate (Linux)."""

from __future__ import annotations

import fcntl
import socket
import struct
from contextlib import suppress
from pathlib import Path

_COUNTERS = Path("/proc/thread-self/net/dev")
_DEVICES = Path("/sys/class/net")
_TX_BYTES = 8  # position among the numbers after the interface's name
_GET_HARDWARE_ADDRESS = 0x8927  # SIOCGIFHWADDR
_REQUEST_BYTES, _NAME_BYTES, _ADDRESS_AT = 40, 15, 18
_MEGABIT = 1e6


def sent_by_interface() -> dict[str, int]:
    """Return the bytes that each interface of this process's network has sent, headers included."""
    found = {}
    for line in _COUNTERS.read_text(encoding="ascii").splitlines():
        name, separator, numbers = line.partition(":")
        if separator:
            found[name.strip()] = int(numbers.split()[_TX_BYTES])
    return found


def line_rate(interface: str, devices: Path = _DEVICES) -> float | None:
    """Return the bits per second of an interface's line; None if nobody knows it.

    Virtual interfaces name a rate that no wire has, so theirs is not known.

    Args:
        interface: Name of the interface.
        devices: Folder in which the system describes its interfaces.
    """
    place = devices / interface
    with suppress(OSError, ValueError):
        if "virtual" in place.resolve(strict=True).parts or not _is_of_this_network(place):
            return None
        said = int((place / "speed").read_text(encoding="ascii"))  # -1 where there is no line
        return said * _MEGABIT if said > 0 else None
    return None


def _is_of_this_network(place: Path) -> bool:
    """Return True if the described interface is this process's, not another namespace's."""
    request = struct.pack(f"{_REQUEST_BYTES}s", place.name.encode()[:_NAME_BYTES])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        answer = fcntl.ioctl(asking, _GET_HARDWARE_ADDRESS, request)
    own = answer[_ADDRESS_AT : _ADDRESS_AT + 6].hex(":")
    return own == (place / "address").read_text(encoding="ascii").strip()
