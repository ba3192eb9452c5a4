"""The `Network`: hosts joined by directed links, and the route of links between two slots.

A *host* is a machine.  It has one *slot* for each rank that it can take: a single one, or one for
each of its GPUs.  Slots are numbered host by host.

A network holds arrays over links and one vectorised route function, but nothing per pair of hosts,
so that a star of a million hosts fits in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dgc_topo.arrays import FloatArray, IntArray
from dgc_topo.network.costs import EndCosts

#: Function from arrays of source and destination slots, shape (num_flows,), to links, shape
#: (num_flows, max_links), in the order in which they are crossed, padded with -1.
Router = Callable[[IntArray, IntArray], IntArray]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Network:
    """Hosts and directed links; every link has a bandwidth and a latency.

    Attributes:
        num_slots: Number of slots for ranks, numbered from 0.
        bandwidth_bytes_per_s: Bandwidth of each link, shape (num_links,), above 0.
        latency_s: Latency of each link, shape (num_links,).
        router: Function that returns the links between slots; see `routes`.
        link_names: Function from a link's number to a name for people.
        costs: Costs of a message at its ends, beside the links.
        own_links: Function from a host to its own links, which only its traffic crosses; by default
            the first and last links of the host's routes.  Limits of a host and links inside it
            do not count.
        slots_per_host: Slots of each host: slot s is on host ``s // slots_per_host``.
        link_slots: Slot whose traffic alone crosses each link, or -1, shape (num_links,); None if
            nothing is known of any link.

    Raises:
        ValueError: if there is no slot, a bandwidth is not above 0 or a latency is below 0.
    """

    num_slots: int
    bandwidth_bytes_per_s: FloatArray
    latency_s: FloatArray
    router: Router
    link_names: Callable[[int], str] = "link {}".format
    costs: EndCosts = field(default_factory=EndCosts)
    own_links: Callable[[int], tuple[int, ...]] | None = None
    slots_per_host: int = 1
    link_slots: IntArray | None = None

    def __post_init__(self) -> None:
        if self.num_slots < 1:
            raise ValueError(f"network: {self.num_slots} hosts, expected at least 1")
        if self.bandwidth_bytes_per_s.shape != self.latency_s.shape:
            raise ValueError(
                f"network: {self.bandwidth_bytes_per_s.shape} bandwidths and "
                f"{self.latency_s.shape} latencies, expected one of each per link"
            )
        if self.link_slots is not None and self.link_slots.shape != self.latency_s.shape:
            raise ValueError(
                f"network: link_slots of shape {self.link_slots.shape}, expected one per link"
            )
        self._refuse(~(self.bandwidth_bytes_per_s > 0), "bandwidth_bytes_per_s", "above 0")
        bad_latency = ~((self.latency_s >= 0) & np.isfinite(self.latency_s))
        self._refuse(bad_latency, "latency_s", "0 or more, and finite")

    def _refuse(self, wrong: npt.NDArray[np.bool_], name: str, expected: str) -> None:
        if wrong.any():
            link = int(np.argmax(wrong))
            value = float(getattr(self, name)[link])
            raise ValueError(f"{self.link_names(link)}: {name} {value}, expected {expected}")

    def __repr__(self) -> str:
        gpus = f" of {self.slots_per_host} GPUs" if self.slots_per_host > 1 else ""
        return f"Network({self.num_hosts} hosts{gpus}, {self.num_links} links)"

    @property
    def num_hosts(self) -> int:
        """Number of hosts."""
        return self.num_slots // self.slots_per_host

    def slot_name(self, slot: int) -> str:
        """Return the name of a slot for people: ``host 3``, or ``host 3 GPU 1``."""
        host, gpu = divmod(slot, self.slots_per_host)
        return f"host {host} GPU {gpu}" if self.slots_per_host > 1 else f"host {host}"

    @property
    def num_links(self) -> int:
        """Number of directed links."""
        return len(self.bandwidth_bytes_per_s)

    def routes(self, src: IntArray, dst: IntArray) -> IntArray:
        """Return the links that each flow crosses.

        Args:
            src: Sending slots, shape (num_flows,).
            dst: Receiving slots, shape (num_flows,).

        Returns:
            Links, shape (num_flows, max_links), padded with -1.  The route from a slot to itself
            has no links.

        Raises:
            ValueError: if a slot does not exist, or cannot be reached.
        """
        what = "hosts" if self.slots_per_host == 1 else "slots"
        for name, slots in (("src", src), ("dst", dst)):
            if len(slots) and not (slots.min() >= 0 and slots.max() < self.num_slots):
                raise ValueError(
                    f"routes: {name} {what} {slots.min()} to {slots.max()}, "
                    f"expected 0 to {self.num_slots - 1}"
                )
        return self.router(src, dst)


def pack_routes(routes: IntArray) -> IntArray:
    """Return routes, shape (num_flows, max_links), with every -1 moved to the end of its row."""
    order = np.argsort(routes < 0, axis=1, kind="stable")
    return np.take_along_axis(routes, order, axis=1)


def star(
    num_hosts: int,
    bandwidth_bytes_per_s: float | FloatArray | Sequence[float],
    latency_s: float | FloatArray | Sequence[float] = 0.0,
    *,
    costs: EndCosts | None = None,
) -> Network:
    """Return hosts around one non-blocking switch, each with an up link and a down link.

    Links ``0 .. num_hosts - 1`` go up from the hosts, the next *num_hosts* go down to them.

    Args:
        num_hosts: Number of hosts.
        bandwidth_bytes_per_s: Bandwidth of every link, or an array of shape (2 * num_hosts,).
        latency_s: Latency of every *link* (host to host crosses two), or such an array.
        costs: Costs of a message at its ends; by default none.

    Raises:
        ValueError: if a number makes no sense.
    """

    def route(src: IntArray, dst: IntArray) -> IntArray:
        links = np.empty(
            (2, len(src)), np.int64
        )  # hop-major, because solvers read one hop of all flows at a time
        links[0] = src
        np.add(dst, num_hosts, out=links[1])
        if (src == dst).any():
            links[:, src == dst] = -1
        return links.T

    def name(link: int) -> str:
        return f"host {link} up" if link < num_hosts else f"host {link - num_hosts} down"

    if num_hosts < 1:
        raise ValueError(f"star: {num_hosts} hosts, expected at least 1")
    shape = (2 * num_hosts,)
    return Network(
        num_hosts,
        _per_link(bandwidth_bytes_per_s, shape, "bandwidth_bytes_per_s"),
        _per_link(latency_s, shape, "latency_s"),
        route,
        name,
        costs or EndCosts(),
        lambda host: (host, num_hosts + host),
        link_slots=np.tile(np.arange(num_hosts), 2),
    )


def _per_link(
    value: float | FloatArray | Sequence[float], shape: tuple[int, ...], name: str
) -> FloatArray:
    values = np.asarray(value, np.float64)
    if values.shape not in {(), shape}:
        raise ValueError(f"star: {name} of shape {values.shape}, expected one number or {shape}")
    return np.broadcast_to(values, shape).copy()
