"""`LabSpec`: hosts, addresses, links' rates and their changes in an emulated cluster."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from dgc_topo.units import check_rate, rate_text

MAX_HOSTS = 64
INTERFACE = "eth0"  #: on every host, its end of the link to the switch
NETWORK = "10.77.0.0"  #: of all hosts; nothing outside the lab sees these names
PREFIX_LENGTH = 16
#: The kernel is told the bytes of a queue in 31 bits.
MAX_QUEUE_BYTES = 2**31 - 1

#: A frame of Ethernet as the shaper counts it: 14 bytes of header and an MTU of 1500.
FRAME_BYTES = 1514
_BURST_S = 250e-6
_BURST_FRAMES = 2
_BATCH_FRAMES = 4
_QUEUE_FRAMES = 16


class LabError(RuntimeError):
    """The lab cannot be built on this machine, or broke down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabChange:
    """A change of a host's link (both directions) during a run.

    Attributes:
        at_s: Seconds after `Hosts.begin`, which a run calls when all its ranks are ready.
        host: Number of the host.
        action: ``rate`` sets the rate, ``cut`` drops every frame, ``restore`` undoes a cut.
        rate_bits_per_s: With ``rate`` only; None is unshaped.
    """

    at_s: float
    host: int
    action: Literal["rate", "cut", "restore"]
    rate_bits_per_s: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.at_s) and self.at_s >= 0):
            raise ValueError(f"link change: at {self.at_s} s, expected 0 or later")
        if self.action not in {"rate", "cut", "restore"}:
            raise ValueError(
                f"link change: action {self.action!r}, expected 'rate', 'cut' or 'restore'"
            )
        if self.action == "rate":
            check_rate(self.rate_bits_per_s, "link change")
        elif self.rate_bits_per_s is not None:
            raise ValueError(f"link change: {self.action!r} takes no rate, expected 'rate'")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabSpec:
    """An emulated cluster: hosts around one switch, with full-duplex links.

    A link is shaped in both directions at its sending end, where it lets a few frames pass at once
    after a pause (see `lab.shaping`).  A stream of TCP over a link of rate R carries
    1448/1514 R = 0.956 R of payload (one Ethernet frame of 1514 bytes as the kernel counts it; a
    real wire spends another 24 bytes per frame on preamble, checksum and gap, and gets
    1448/1538 R).

    Attributes:
        num_hosts: Hosts, 1 to 64.
        rate_bits_per_s: Of every link; None leaves links unshaped.
        host_rates_bits_per_s: Other rates of single hosts, by number.
        queue_s: Seconds that a full queue of a shaped link takes to drain, at least 16 frames.
            This is the switch's buffer, which fills where several hosts send to one; a host has as
            much for each group of peers, and serves these in turn.
        congestion_control: Of every connection between hosts; None takes the kernel's default.
            Connections keep their window in a pause (``tcp_slow_start_after_idle`` is off).
            Cubic, the default of Linux, begins gently enough (HyStart) that many-to-many exchanges
            over new connections lose no packets at the switch: sharding 1 MB over 8 hosts at
            100 Mbit/s took 163 ms, and 193 ms with Reno.
        ranks_per_host: Ranks on each host, neighbours first.
        changes: Changes of links during a run.
        time_scale: Factor by which all is slower than in the cluster this stands for: 10 for
            a tenth of the rate.  More than 1 makes a *scaled* lab, and names it so; worker
            processes are to slow their computing likewise.
    """

    num_hosts: int
    rate_bits_per_s: float | None = None
    host_rates_bits_per_s: Mapping[int, float | None] = field(default_factory=dict)
    queue_s: float = 0.02
    congestion_control: str | None = "cubic"
    ranks_per_host: int = 1
    changes: tuple[LabChange, ...] = ()
    time_scale: float = 1.0

    def __post_init__(self) -> None:
        _check_count("num_hosts", self.num_hosts, MAX_HOSTS)
        _check_count("ranks_per_host", self.ranks_per_host, 64)
        if not 0 < self.queue_s <= 1:
            raise ValueError(f"lab: queue_s {self.queue_s}, expected above 0 and at most 1 second")
        if not (math.isfinite(self.time_scale) and self.time_scale >= 1):
            raise ValueError(f"lab: time_scale {self.time_scale}, expected 1 or more")
        if self.congestion_control == "":
            raise ValueError(
                "lab: congestion_control '', expected a name such as 'cubic', or None (the "
                "kernel's default)"
            )
        self._check_links()

    def _check_links(self) -> None:
        self.check_link(self.rate_bits_per_s, "rate_bits_per_s")
        for host, rate in self.host_rates_bits_per_s.items():
            self.check_host(host, "host_rates_bits_per_s")
            self.check_link(rate, f"host_rates_bits_per_s[{host}]")
        for number, change in enumerate(self.changes):
            self.check_host(change.host, "changes")
            self.check_link(change.rate_bits_per_s, f"changes[{number}]")

    @property
    def num_ranks(self) -> int:
        """The largest world size that fits."""
        return self.num_hosts * self.ranks_per_host

    @property
    def name(self) -> str:
        """The name of this network in records: hosts' links, slow hosts, changes, scale."""
        slow = [
            f"host {host} at {rate_text(rate)}"
            for host, rate in sorted(self.host_rates_bits_per_s.items())
        ]
        parts = [f"lab {rate_text(self.rate_bits_per_s)}", *slow]
        if self.ranks_per_host > 1:
            parts.append(f"{self.ranks_per_host} ranks per host")
        if self.changes:
            parts.append(f"{len(self.changes)} link changes")
        name = ", ".join(parts)
        return name if self.time_scale == 1 else f"scaled 1:{self.time_scale:g} {name}"

    def rate_of(self, host: int) -> float | None:
        """Return the rate of a host's link in bit/s; None is unshaped."""
        return self.host_rates_bits_per_s.get(host, self.rate_bits_per_s)

    def check_host(self, host: int, where: str) -> None:
        """Refuse a number that no host has."""
        if not 0 <= host < self.num_hosts:
            raise ValueError(
                f"lab: {where}: host {host!r}, expected a number from 0 to {self.num_hosts - 1}"
            )

    def check_link(self, rate_bits_per_s: float | None, where: str) -> None:
        """Refuse a rate that the kernel cannot keep, alone or with this queue."""
        check_rate(rate_bits_per_s, f"lab: {where}")
        if rate_bits_per_s is None:
            return
        held = queue_bytes(rate_bits_per_s, self.queue_s)
        if held > MAX_QUEUE_BYTES:
            raise ValueError(
                f"lab: {where}: rate {rate_text(rate_bits_per_s)} with queue_s {self.queue_s:g}: a "
                f"full queue holds {held:,} bytes, expected at most {MAX_QUEUE_BYTES:,}"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON value that `from_json` takes."""
        rates = [[host, rate] for host, rate in self.host_rates_bits_per_s.items()]
        return {**asdict(self), "host_rates_bits_per_s": rates}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LabSpec:
        """Return the specification that `to_json` gave."""
        values = dict(value)
        values["host_rates_bits_per_s"] = dict(values["host_rates_bits_per_s"])
        values["changes"] = tuple(LabChange(**change) for change in values["changes"])
        return cls(**values)


def burst_bytes(rate_bits_per_s: float) -> int:
    """Return the bytes that a shaped link lets pass at once after a pause.

    A large bucket carries short messages for nothing, a small one loses its tokens whenever the
    kernel's timer is late.  Two frames, or 250 us worth: a stream then gets 99.8 % of the
    framing limit at 100 Mbit/s (one frame: 87 %).
    """
    return _frames_in_burst(rate_bits_per_s) * FRAME_BYTES


def batch_frames(rate_bits_per_s: float) -> int:
    """Return the most frames that a host with a shaped link hands over at a time.

    Fewer would be more like a wire, which has one at a time, but every batch costs the emulating
    machine processor time: with single frames, 8 hosts at 100 Mbit/s keep two cores busy.
    """
    return max(_BATCH_FRAMES, _frames_in_burst(rate_bits_per_s))


def _frames_in_burst(rate_bits_per_s: float) -> int:
    return max(_BURST_FRAMES, int(rate_bits_per_s / 8 * _BURST_S / FRAME_BYTES))


def queue_bytes(rate_bits_per_s: float, queue_s: float) -> int:
    """Return the most bytes that wait at a shaped link; more are dropped."""
    return max(_QUEUE_FRAMES * FRAME_BYTES, math.ceil(rate_bits_per_s / 8 * queue_s))


def _check_count(name: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise ValueError(f"lab: {name} {value!r}, expected a whole number from 1 to {most}")


def address_of(host: int) -> str:
    """Return a host's IPv4 address, the same in every lab."""
    return f"10.77.0.{host + 1}"


def hardware_address_of(host: int) -> str:
    """Return the Ethernet address of a host's interface."""
    return f"02:00:00:00:00:{host + 1:02x}"
