"""Hosts, links and the switch, made in network namespaces (inside the daemon's process)."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from dgc_topo.workers.lab.counters import HostCounters
from dgc_topo.workers.lab.namespaces import inside, new_network
from dgc_topo.workers.lab.shaping import Shape, dropped_packets, shape_host, shape_switch
from dgc_topo.workers.lab.spec import (
    INTERFACE,
    NETWORK,
    PREFIX_LENGTH,
    LabSpec,
    address_of,
    hardware_address_of,
)

_LOOPBACK_INDEX = 1
#: Of the network namespace of who opens it.  With it, after every pause of a fifth of a second (the
#: least retransmission time-out) connections forget what their path can carry, and exchanges of
#: 500 kB at 100 Mbit/s took 70 ms, not 45.
_SLOW_START_AFTER_IDLE = Path("/proc/sys/net/ipv4/tcp_slow_start_after_idle")
_CONGESTION_CONTROLS = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")
_SCOPE_LINK, _BY_KERNEL = 253, 2
_NO_ADDRESSES = 1
_STATIC, _OF_THE_BRIDGE = 0x40, 0x04  # NUD_NOARP, NTF_MASTER


@dataclass(slots=True)
class _Host:
    namespace: int
    route: IPRoute  #: talks to the kernel inside the host's namespace
    interface: int
    port: int  #: index of the switch's end of the link
    shape: Shape | None = None  #: of its link; None is unshaped


class LabNetwork:
    """A switch (a bridge) and hosts, each joined by a pair of virtual interfaces.

    The calling process ends up in the switch's namespace.  Address resolution and the switch's
    table are filled in beforehand, so that no frame is spent on finding anybody.

    Raises:
        ValueError: if the kernel does not know the congestion control.
        OSError: if it has no namespaces left.
        NetlinkError: if it refuses anything else.
    """

    def __init__(self, spec: LabSpec) -> None:
        self._spec = spec
        namespaces = [new_network() for _ in range(spec.num_hosts)]
        self._switch_namespace = new_network()
        self._switch = IPRoute()
        self._switch.link(
            "add",
            ifname="switch",
            kind="bridge",
            br_stp_state=0,
            br_forward_delay=0,
            br_mcast_snooping=0,
        )
        self._bridge = _index(self._switch, "switch")
        _disable_ipv6(self._switch, self._bridge)
        self._switch.link("set", index=self._bridge, state="up")
        self._hosts = [self._make_host(host, fd) for host, fd in enumerate(namespaces)]
        for host in range(spec.num_hosts):
            self._make_known(host)
        self.reset()

    def namespace(self, host: int) -> int:
        """Return a descriptor of the host's network namespace."""
        return self._hosts[host].namespace

    def reset(self) -> None:
        """Give every link the rate that the specification says, and undo cuts."""
        for host in range(self._spec.num_hosts):
            self.set_rate(host, self._spec.rate_of(host))
            self.restore(host)

    def set_rate(self, host: int, rate_bits_per_s: float | None) -> None:
        """Shape both directions of a host's link; None takes the shaping away."""
        it = self._hosts[host]
        new = None if rate_bits_per_s is None else Shape(rate_bits_per_s, self._spec.queue_s)
        shape_host(it.route, it.interface, it.shape, new)
        shape_switch(self._switch, it.port, it.shape, new)
        it.shape = new

    def cut(self, host: int) -> None:
        """Take a host's link down at the switch: what is sent is lost, connections stay."""
        self._switch.link("set", index=self._hosts[host].port, state="down")

    def restore(self, host: int) -> None:
        """Undo a cut."""
        self._switch.link("set", index=self._hosts[host].port, state="up")

    def counters(self) -> list[HostCounters]:
        """Return the counters of every host's interface."""
        return [self._count(host) for host in self._hosts]

    def _count(self, host: _Host) -> HostCounters:
        (link,) = host.route.get_links(host.interface)
        stats = link.get_attr("IFLA_STATS64")
        up = dropped_packets(host.route, host.interface)
        down = dropped_packets(self._switch, host.port)
        return HostCounters(
            tx_bytes=stats["tx_bytes"],
            tx_packets=stats["tx_packets"],
            rx_bytes=stats["rx_bytes"],
            rx_packets=stats["rx_packets"],
            tx_dropped=stats["tx_dropped"] + up,
            rx_dropped=stats["rx_dropped"] + down,
            tx_resent=self._resent_by(host),
        )

    def _resent_by(self, host: _Host) -> int:
        """Return the number of segments that the TCP of a host's namespace has sent again."""
        with inside(host.namespace, self._switch_namespace):
            lines = Path("/proc/thread-self/net/snmp").read_text().splitlines()
        names, numbers = (line.split() for line in lines if line.startswith("Tcp:"))
        return int(numbers[names.index("RetransSegs")])

    def _make_host(self, host: int, namespace: int) -> _Host:
        peer = {"ifname": INTERFACE, "net_ns_fd": namespace}
        name = f"port{host}"
        self._switch.link("add", ifname=name, kind="veth", peer=peer)
        port = _index(self._switch, name)
        _disable_ipv6(self._switch, port)
        self._switch.link("set", index=port, master=self._bridge, state="up")
        with inside(namespace, self._switch_namespace):
            route = IPRoute()  # stays in the namespace it was made in
            with suppress(OSError):  # where /proc/sys is read-only, it takes longer
                keep_windows()
        interface = _index(route, INTERFACE)
        route.link("set", index=_LOOPBACK_INDEX, state="up")
        _disable_ipv6(route, interface)
        route.link("set", index=interface, address=hardware_address_of(host))
        route.addr("add", index=interface, address=address_of(host), prefixlen=PREFIX_LENGTH)
        route.link("set", index=interface, state="up")
        if self._spec.congestion_control is not None:
            _set_congestion_control(route, interface, host, self._spec.congestion_control)
        return _Host(namespace, route, interface, port)

    def _make_known(self, host: int) -> None:
        """Tell the switch and all other hosts where this one is."""
        it = self._hosts[host]
        self._switch.fdb(
            "add",
            ifindex=it.port,
            lladdr=hardware_address_of(host),
            state=_STATIC,
            flags=_OF_THE_BRIDGE,
        )
        for other in range(self._spec.num_hosts):
            if other != host:
                it.route.neigh(
                    "add",
                    dst=address_of(other),
                    lladdr=hardware_address_of(other),
                    ifindex=it.interface,
                    state="permanent",
                )

    def close(self) -> None:
        """Let go of every namespace; those without processes vanish."""
        for host in self._hosts:
            host.route.close()
            os.close(host.namespace)
        self._switch.close()
        os.close(self._switch_namespace)


def keep_windows() -> None:
    """Have connections of this network namespace keep their windows in a pause.

    Raises:
        OSError: if that is not this process's to say.
    """
    _SLOW_START_AFTER_IDLE.write_text("0")


def _set_congestion_control(route: IPRoute, interface: int, host: int, name: str) -> None:
    """Choose what connections to other hosts use."""
    try:
        route.route(
            "replace",
            dst=f"{NETWORK}/{PREFIX_LENGTH}",
            oif=interface,
            scope=_SCOPE_LINK,
            proto=_BY_KERNEL,
            prefsrc=address_of(host),
            # The system-wide setting may be out of reach; a route's is not.
            metrics={"cc_algo": name},
        )
    except NetlinkError as error:
        if error.code != errno.EINVAL:
            raise
        there = _CONGESTION_CONTROLS.read_text().split()
        raise ValueError(
            f"lab: congestion_control {name!r}: this kernel has none of that name, expected one "
            f"of: {', '.join(there)}"
        ) from error


def _disable_ipv6(route: IPRoute, interface: int) -> None:
    """Keep an interface from taking an IPv6 address and announcing it."""
    mode = {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _NO_ADDRESSES)]}
    try:
        route.link("set", index=interface, IFLA_AF_SPEC={"attrs": [("AF_INET6", mode)]})
    except NetlinkError as error:
        if error.code not in {errno.EAFNOSUPPORT, errno.EOPNOTSUPP}:  # a kernel without IPv6
            raise


def _index(route: IPRoute, name: str) -> int:
    (index,) = route.link_lookup(ifname=name)
    return int(index)
