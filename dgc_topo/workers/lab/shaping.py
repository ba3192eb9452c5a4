"""Shaping of the two ends of a host's link, by the kernel's queueing disciplines (``htb``).

The switch's end has one queue, like a switch's port.  The host's end shares one rate in the way of
``fq_codel``, the default of hosts:

* Acknowledgements go first.  In a single queue they would wait behind the host's own data, so that
  two hosts that send to each other would take turns: a butterfly of 8 ranks and 10 MB at 100 Mbit/s
  took 2.3 s instead of 1.6 s.
* Receivers take turns.  In a single queue, a receiver that is ready a little later would wait for
  the whole windows of the others: a sharded parameter server of 4 ranks and 1 MB took 134 to 148 ms
  instead of 131 ms.

A shaper passes at once whatever the kernel hands it, by default 64 kB of frames.  Short messages
would then leave a host faster than its link, and wait at the switch in front of acknowledgements.
A host's interface therefore takes few frames at a time (its ``gso_max_segs``): a ring of 8 ranks
and 1 MB took 153 ms instead of 176 ms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.rtnl.tcmsg import plugins

from dgc_topo.workers.lab.spec import batch_frames, burst_bytes, queue_bytes

_ROOT, _ALL, _FIRST, _REST = 0x1_0000, 0x1_0001, 0x1_0010, 0x1_0020
_ALL_QUEUE, _FIRST_QUEUE, _REST_QUEUE = 0x2_0000, 0x10_0000, 0x20_0000
_TURNS = 16  #: classes of what is not first, by the last bits of the address it goes to
_NEXT_QUEUE = 0x1_0000
_IP = 0x0800
_SHORT = "0x0000/0xffc0+2"  # an IP packet of fewer than 64 bytes: no payload
_LAST_OF_ADDRESS = 19  # byte of an IP packet: of where it goes
_ATTACHED_TO_LINK = 0xFFFF_FFFF
_ANY_FRAMES = 65535  # as many as the kernel sees fit

# It takes the limit of a pfifo, in bytes.
plugins.setdefault("bfifo", plugins["pfifo"])


@dataclass(frozen=True, slots=True)
class Shape:
    """Rate of a link, and length of its queue.

    Attributes:
        rate_bits_per_s: Frames and their headers included.
        queue_s: Time that a full queue takes to drain.
    """

    rate_bits_per_s: float
    queue_s: float

    @property
    def burst_bytes(self) -> int:
        """Bytes that pass at once after a pause."""
        return burst_bytes(self.rate_bits_per_s)

    @property
    def queue_bytes(self) -> int:
        """Most bytes that wait."""
        return queue_bytes(self.rate_bits_per_s, self.queue_s)

    @property
    def batch_frames(self) -> int:
        """Frames that a host hands over at a time."""
        return batch_frames(self.rate_bits_per_s)

    @property
    def bytes_per_s(self) -> int:
        """The rate, as the kernel takes it."""
        return round(self.rate_bits_per_s / 8)


def shape_switch(route: IPRoute, port: int, old: Shape | None, new: Shape | None) -> None:
    """Shape what the switch sends to a host; None is unshaped."""
    if new is None:
        _unshape(route, port, old)
        return
    _set_rate(route, port, old, new, default=_ALL)
    _set_queue(route, port, _ALL_QUEUE, _ALL, new)


def shape_host(route: IPRoute, interface: int, old: Shape | None, new: Shape | None) -> None:
    """Shape what a host sends; None is unshaped.

    Connections that are open keep the number of frames that they hand over at a time.
    """
    frames = _ANY_FRAMES if new is None else new.batch_frames
    route.link("set", index=interface, gso_max_segs=frames)
    if new is None:
        _unshape(route, interface, old)
        return
    _set_rate(route, interface, old, new, default=_REST)
    # A half of the rate is theirs for certain, which is more than acknowledgements ever want.
    _set_class(route, interface, _FIRST, _ALL, new, share=0.5, prio=0)
    _set_queue(route, interface, _FIRST_QUEUE, _FIRST, new)
    for turn in range(_TURNS):
        _set_class(route, interface, _REST + turn, _ALL, new, share=0.5 / _TURNS, prio=1)
        _set_queue(route, interface, _REST_QUEUE + turn * _NEXT_QUEUE, _REST + turn, new)
    if old is None:
        _sort(route, interface, 1, _SHORT, _FIRST)
        for turn in range(_TURNS):
            _sort(
                route, interface, 2, f"{turn:#x}/{_TURNS - 1:#x}+{_LAST_OF_ADDRESS}", _REST + turn
            )


def dropped_packets(route: IPRoute, interface: int) -> int:
    """Return the number of packets that the shaping of an interface has dropped."""
    drops = 0
    for discipline in route.get_qdiscs(interface):
        if discipline["parent"] == _ATTACHED_TO_LINK:  # it counts those of its queues, too
            stats = discipline.get_attr("TCA_STATS2")
            queue = stats.get_attr("TCA_STATS_QUEUE") if stats else None
            drops += queue["drops"] if queue else 0
    return drops


def _unshape(route: IPRoute, interface: int, old: Shape | None) -> None:
    """Remove the shaping, if there is any; queued packets are lost."""
    if old is not None:
        route.tc("del", index=interface, handle=_ROOT, root=True)


def _set_rate(
    route: IPRoute, interface: int, old: Shape | None, new: Shape, *, default: int
) -> None:
    """Give an interface its one rate; frames that no filter knows go to the class *default*."""
    if old is None:
        route.tc("add", "htb", interface, _ROOT, default=default & 0xFFFF)
    _set_class(route, interface, _ALL, _ROOT, new, share=1.0, prio=0)


def _set_queue(route: IPRoute, interface: int, handle: int, parent: int, shape: Shape) -> None:
    """Give a class a queue, or the one it has another length."""
    route.tc("replace", "bfifo", interface, handle, parent=parent, limit=shape.queue_bytes)


def _sort(route: IPRoute, interface: int, prio: int, key: str, target: int) -> None:
    """Send IP packets that *key* fits to a class."""
    options: dict[str, Any] = {"prio": prio, "protocol": _IP, "target": target, "keys": [key]}
    route.tc("add-filter", "u32", interface, parent=_ROOT, **options)


def _set_class(
    route: IPRoute,
    interface: int,
    handle: int,
    parent: int,
    shape: Shape,
    *,
    share: float,
    prio: int,
) -> None:
    """Make a class, or give it another rate."""
    route.tc(
        "replace-class",
        "htb",
        interface,
        handle,
        parent=parent,
        rate=round(share * shape.bytes_per_s),
        ceil=shape.bytes_per_s,
        burst=shape.burst_bytes,
        cburst=shape.burst_bytes,
        quantum=shape.burst_bytes,
        prio=prio,
    )
