"""Changes to a network: GPUs in hosts, slower hosts and links, limits, events over time.

The functions return a changed copy.  Other jobs' traffic (`Background`), and links that change
during a run (`LinkChange`), are values beside the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple

import numpy as np

from dgc_topo.arrays import FloatArray, IntArray
from dgc_topo.network.network import Network, pack_routes

_ROUNDING = 1e-9  # relative, of the bytes that a link carries


@dataclass(frozen=True, slots=True)
class LinkChange:
    """Links whose bandwidth changes at a given time.

    Attributes:
        at_s: Time of the change, in seconds.
        links: Numbers of the links.
        factor: New bandwidth as a multiple of the network's.  0 is a failure: flows on the link
            wait until a later change brings it back.

    Raises:
        ValueError: if the time or the factor is negative.
    """

    at_s: float
    links: tuple[int, ...]
    factor: float

    def __post_init__(self) -> None:
        for name in ("at_s", "factor"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ValueError(f"link change: {name} {value}, expected 0 or more")


class Background(NamedTuple):
    """Flows of other jobs, as arrays of shape (num_flows,).

    Attributes:
        src: Slots that send.
        dst: Slots that receive.
        num_bytes: Size of each flow.
        start_s: When each flow starts.
    """

    src: IntArray
    dst: IntArray
    num_bytes: FloatArray
    start_s: FloatArray


def carry_times_s(
    network: Network, num_bytes: FloatArray, changes: Sequence[LinkChange] = ()
) -> FloatArray:
    """Return the times at which links that are always busy would have carried their bytes.

    Args:
        network: Network with the bandwidths before any change, and the bytes saved up at first.
        num_bytes: Bytes of each link, shape (num_links,).
        changes: Changes of bandwidths.

    Returns:
        Seconds, shape (num_links,); infinite if a link fails for good before it has carried all.
    """
    left = np.maximum(num_bytes - network.costs.burst_bytes, 0.0)
    times_s = left / network.bandwidth_bytes_per_s
    of_link: dict[int, list[LinkChange]] = {}
    for change in sorted(changes, key=lambda change: change.at_s):
        for link in change.links:
            of_link.setdefault(link, []).append(change)
    for link, own in of_link.items():
        bandwidth = float(network.bandwidth_bytes_per_s[link])
        times_s[link] = _carry_s(float(left[link]), bandwidth, own)
    return np.asarray(times_s, np.float64)


def _carry_s(num_bytes: float, bandwidth: float, changes: Sequence[LinkChange]) -> float:
    now, rate, left = 0.0, bandwidth, num_bytes
    for change in changes:
        if change.at_s > now:
            # Allow for rounding: a message may end exactly when its link fails.
            if left <= rate * (change.at_s - now) + _ROUNDING * num_bytes:
                return now + min(left / rate, change.at_s - now) if rate else now
            left -= rate * (change.at_s - now)
        now, rate = change.at_s, bandwidth * change.factor
    if left <= _ROUNDING * num_bytes:
        return now
    return now + left / rate if rate else np.inf


def slow_links(network: Network, links: Sequence[int], factor: float) -> Network:
    """Return the network with the bandwidth of *links* multiplied by *factor*.

    Raises:
        ValueError: if there is no such link, or the factor is not above 0.
    """
    checked_links(network, links)
    if not 0 < factor < np.inf:
        raise ValueError(f"slow links: factor {factor}, expected above 0 (a LinkChange may be 0)")
    bandwidth = network.bandwidth_bytes_per_s.copy()
    bandwidth[list(links)] *= factor
    return replace(network, bandwidth_bytes_per_s=bandwidth)


def slow_host(network: Network, host: int, factor: float) -> Network:
    """Return the network with the bandwidth of the host's own links multiplied by *factor*."""
    return slow_links(network, links_of_host(network, host), factor)


def links_of_host(network: Network, host: int) -> tuple[int, ...]:
    """Return a host's own links, which all its traffic crosses.

    Raises:
        ValueError: if there is no such host.
    """
    if not 0 <= host < network.num_hosts:
        raise ValueError(f"host {host}, expected 0 to {network.num_hosts - 1}")
    if network.own_links is not None:
        return network.own_links(host)
    slots = np.arange(network.num_slots)
    others = slots[slots // network.slots_per_host != host]
    here = np.full_like(others, host * network.slots_per_host)
    leaving = network.routes(here, others)
    arriving = network.routes(others, here)
    last = (arriving >= 0).sum(axis=1) - 1
    links = np.concatenate([leaving[:, 0], arriving[np.arange(len(last)), last]])
    return tuple(sorted(set(links.tolist())))


def add_gpus(
    network: Network, gpus_per_host: int, bandwidth_bytes_per_s: float, latency_s: float = 0.0
) -> Network:
    """Return the network with several GPUs in each host, one rank per GPU.

    A switch inside each host (NVLink, PCIe) joins its GPUs with each other and with the host's
    links.  Slot ``host * gpus_per_host + gpu`` is a GPU.

    Args:
        network: Network of hosts with one slot each.
        gpus_per_host: Number of GPUs in each host.
        bandwidth_bytes_per_s: Bandwidth of each GPU's link inside its host, each way.
        latency_s: Latency of such a link; two GPUs of a host are two links apart.

    Raises:
        ValueError: if a number is out of range, or there are GPUs already.
    """
    if gpus_per_host < 1 or network.slots_per_host > 1:
        raise ValueError(
            f"GPUs: {gpus_per_host} in each host of {network!r}, expected at least 1, once"
        )
    first, num_gpus = network.num_links, network.num_slots * gpus_per_host

    def route(src: IntArray, dst: IntArray) -> IntArray:
        up = np.where(src == dst, -1, first + src)
        down = np.where(src == dst, -1, first + num_gpus + dst)
        outside = network.router(src // gpus_per_host, dst // gpus_per_host)
        return pack_routes(np.column_stack([up, outside, down]))

    def link_name(link: int) -> str:
        if link < first:
            return network.link_names(link)
        way, gpu = divmod(link - first, num_gpus)
        host, number = divmod(gpu, gpus_per_host)
        return f"host {host} GPU {number} {'down' if way else 'up'}"

    inside = np.ones(2 * num_gpus)
    return replace(
        network,
        num_slots=num_gpus,
        bandwidth_bytes_per_s=np.append(
            network.bandwidth_bytes_per_s, inside * bandwidth_bytes_per_s
        ),
        latency_s=np.append(network.latency_s, inside * latency_s),
        router=route,
        link_names=link_name,
        own_links=partial(links_of_host, network),
        slots_per_host=gpus_per_host,
        link_slots=None,
    )


def limit_hosts(
    network: Network,
    limit_bytes_per_s: float | FloatArray,
    name: str = "both ways",
    *,
    each: Literal["host", "slot"] = "host",
) -> Network:
    """Return the network with a limit on the bytes that each host, or slot, sends plus receives.

    Full-duplex links often carry less both ways than twice the rate of one way (a *duplex limiter*:
    160-187.5 MB/s instead of 240 on 1 GbE; Graphene cluster, SimGrid's guide).  A cap on the bytes
    that a process can move per second is the same limit for a slot.  Traffic inside a host does not
    count for the host's limit.

    Args:
        network: The network without the limit.
        limit_bytes_per_s: Limit of each host (or slot), or an array of shape (num_hosts,).
        name: Name of the limit for people: ``host 3 both ways``.
        each: Owner of each limit: a host or a slot.

    Raises:
        ValueError: if a limit is not above 0.
    """
    first = network.num_links
    size, of_each = network.num_hosts, network.slots_per_host
    if each == "slot":
        size, of_each = network.num_slots, 1
    limits = np.broadcast_to(np.asarray(limit_bytes_per_s, np.float64), (size,))

    def route(src: IntArray, dst: IntArray) -> IntArray:
        ends = np.stack([src, dst]) // of_each
        ends = np.where(ends[0] == ends[1], -1, ends + first)
        routes: IntArray = np.concatenate([ends, network.router(src, dst).T]).T
        # Padding stays last, unless both slots are on one host, which its limit does not count.
        return routes if of_each == 1 else pack_routes(routes)

    def link_name(link: int) -> str:
        if link < first:
            return network.link_names(link)
        owner = network.slot_name(link - first) if each == "slot" else f"host {link - first}"
        return f"{owner} {name}"

    return replace(
        network,
        bandwidth_bytes_per_s=np.append(network.bandwidth_bytes_per_s, limits),
        latency_s=np.append(network.latency_s, np.zeros(size)),
        router=route,
        link_names=link_name,
        own_links=partial(links_of_host, network),  # the limits are not links of the host
        link_slots=None,
    )


def checked_links(network: Network, links: Sequence[int]) -> None:
    """Refuse links that *network* does not have, and links without a bandwidth to change."""
    wrong = [link for link in links if not 0 <= link < network.num_links]
    if wrong:
        raise ValueError(f"link {wrong[0]}: expected 0 to {network.num_links - 1}")
    endless = [link for link in links if np.isinf(network.bandwidth_bytes_per_s[link])]
    if endless:
        raise ValueError(
            f"{network.link_names(endless[0])}: only delays (its bandwidth is not shared, or "
            "infinite), expected a link whose bandwidth can change"
        )
