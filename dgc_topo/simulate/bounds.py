"""What no schedule can beat."""

from __future__ import annotations

import numpy as np

from dgc_topo.cost import Cost
from dgc_topo.schedule import Schedule
from dgc_topo.simulate.growth import Growth
from dgc_topo.simulate.network import IntArray, Network

#: Of more ranks than this not every pair is looked at.
MAX_RANKS = 1024


def lower_bound_s(
    num_ranks: int,
    num_bytes: float,
    bandwidth_bytes_per_s: float,
    latency_s: float,
    *,
    messages_at_once: int = 1,
) -> float:
    """Return a time that no all-reduce among equal ports can beat.

    The larger of two:

    - ``ceil(lg p) * alpha``: a contribution reaches at most twice as many ranks per message time;
      with k messages at once ``k + 1`` times as many, so the base of the logarithm is ``k + 1``.
    - ``2 (p - 1) / p * n / bandwidth``: bytes that some rank's port has to carry when the ranks do
      the reduction themselves (Patarasuk & Yuan, 2009).  Dedicated servers are such ranks as well:
      count them, or know that they can beat this bound.

    Args:
        num_ranks: Ranks that take part (p), at least 1.
        num_bytes: Size of the buffer (n).
        bandwidth_bytes_per_s: Of a rank's port, each way.
        latency_s: One way, host to host (alpha).
        messages_at_once: Messages that a rank sends in one step (k).

    Raises:
        ValueError: if a number makes no sense.
    """
    if num_ranks < 1 or messages_at_once < 1:
        raise ValueError(
            f"lower bound: {num_ranks} ranks, {messages_at_once} messages at once, "
            "expected at least 1"
        )
    if not num_bytes >= 0 or not latency_s >= 0:
        raise ValueError(
            f"lower bound: {num_bytes} bytes, latency {latency_s} s, expected 0 or more"
        )
    if not bandwidth_bytes_per_s > 0:
        raise ValueError(f"lower bound: bandwidth {bandwidth_bytes_per_s}, expected above 0")
    port_s = 2 * (num_ranks - 1) / num_ranks * num_bytes / bandwidth_bytes_per_s
    rounds, reached = 0, 1
    while reached < num_ranks:  # in integers: a logarithm may round the wrong way
        rounds, reached = rounds + 1, reached * (messages_at_once + 1)
    return max(rounds * latency_s, port_s)


def goal_bound_s(
    schedule: Schedule,
    cost: Cost,
    num_bytes: float,
    bandwidth_bytes_per_s: float,
    latency_s: float,
    merged_bytes: float | None = None,
) -> float:
    """Return a time that no schedule with the same goal and ranks can beat among equal ports.

    - An all-reduce: `lower_bound_s`.  With s servers, which contribute nothing, w contributors send
      and receive every byte at least once, and ``2 (w - 1)`` times in all over ``w + s`` ports.
    - Gossip: one neighbour's buffer (or less, if the schedule sends less): ``alpha + n / B``.
    - A building block promises nothing: 0.

    Args:
        schedule: For its goal, ranks and servers.
        cost: Of the schedule; a rank sends as many messages at once as it ever does there.
        num_bytes: What one contributor has to give (n).
        bandwidth_bytes_per_s: Of a rank's port, each way.
        latency_s: One way, host to host (alpha).
        merged_bytes: For sparse gradients, bytes of the union of all contributors but one: what
            each must at least receive in an all-reduce.  Dense if left out.

    Raises:
        ValueError: if a number makes no sense.
    """
    contributors = len(schedule.contributors)
    latency_only_s = lower_bound_s(
        max(contributors, 1),
        0.0,
        bandwidth_bytes_per_s,
        latency_s,
        messages_at_once=max(1, cost.most_per_step),
    )
    if schedule.goal == "part" or not cost.num_messages:
        return 0.0
    if schedule.goal != "all-reduce":
        return latency_s + min(1.0, cost.buffers_sent) * num_bytes / bandwidth_bytes_per_s
    if merged_bytes is None:
        times = max(1.0, 2 * (contributors - 1) / schedule.world_size) if contributors > 1 else 0.0
        merged_bytes = times * num_bytes
    return max(latency_only_s, merged_bytes / bandwidth_bytes_per_s)


def network_bound_s(
    schedule: Schedule,
    cost: Cost,
    union_bytes: Growth,
    network: Network,
    hosts: IntArray,
    *,
    is_dense: bool = True,
) -> float:
    """Return a time that no schedule with the same goal can beat on any network.

    The larger of two:

    - `goal_bound_s`, if all ports were as wide as the widest and all routes as short as the
      shortest;
    - in an all-reduce, for each link that cuts the ranks in two: what those on one side gave has
      to cross it at least once.  A host's down link is such a cut, the uplink of a rack as well.

    All that messages cost beside links only adds to it.

    Args:
        schedule: For its goal, ranks and servers.
        cost: Of the schedule.
        union_bytes: Maps numbers of contributors to the bytes of what they give together.
        network: Bandwidths, latencies and routes.
        hosts: Host of each rank, shape (world_size,).
        is_dense: Whether *union_bytes* is the same for any number of contributors.

    Returns:
        Seconds; 0 if the ranks are too many to look at each pair.
    """
    if not 1 < len(hosts) <= MAX_RANKS:
        return 0.0
    ranks = np.arange(len(hosts))
    src, dst = (grid.ravel() for grid in np.meshgrid(ranks, ranks, indexing="ij"))
    src, dst = src[src != dst], dst[src != dst]
    routes = network.routes(hosts[src], hosts[dst])
    if (routes < 0).all(axis=1).any():
        return 0.0  # two ranks share a host, where nothing takes time
    latency_s = np.append(network.latency_s, 0.0)[routes].sum(axis=1)  # -1 is the last
    own, merged = union_bytes(np.array([1, len(schedule.contributors) - 1])).tolist()
    widest = _widest_port(network, src, dst, routes)
    sparse = None if is_dense else merged
    bound_s = goal_bound_s(schedule, cost, own, widest, float(latency_s.min()), sparse)
    if schedule.goal != "all-reduce" or not cost.num_messages:
        return bound_s
    links, given = _cuts(schedule, network, src, dst, routes)
    needed_s = union_bytes(given) / network.bandwidth_bytes_per_s[links]
    return max(bound_s, float(needed_s.max(initial=0.0)))


def _widest_port(network: Network, src: IntArray, dst: IntArray, routes: IntArray) -> float:
    """Return the largest bandwidth with which a rank can send, or receive, over all its links."""
    last = routes[np.arange(len(routes)), (routes >= 0).sum(axis=1) - 1]
    widest = 0.0
    for rank, link in ((src, routes[:, 0]), (dst, last)):
        pairs = np.unique(rank * network.num_links + link)
        bandwidth = network.bandwidth_bytes_per_s[pairs % network.num_links]
        widest = max(widest, float(np.bincount(pairs // network.num_links, bandwidth).max()))
    return widest


def _cuts(
    schedule: Schedule, network: Network, src: IntArray, dst: IntArray, routes: IntArray
) -> tuple[IntArray, IntArray]:
    """Return links that all traffic from some ranks to all the others crosses.

    Returns:
        The links, and how many contributors are on the sending side of each; only those with a
        contributor on the other side, too.
    """
    flows, hops = np.nonzero(routes >= 0)
    links = routes[flows, hops]
    is_contributor = np.zeros(schedule.world_size, np.bool_)
    is_contributor[schedule.contributors] = True
    num_links, size = network.num_links, schedule.world_size

    def sides(ranks: IntArray) -> tuple[IntArray, IntArray]:
        pairs = np.unique(links * size + ranks[flows])
        found = np.bincount(pairs // size, minlength=num_links)
        contribute = is_contributor[pairs % size]
        return found, np.bincount(pairs[contribute] // size, minlength=num_links)

    (sending, given), (receiving, wanting) = sides(src), sides(dst)
    crossing = np.bincount(links, minlength=num_links)
    cut = (crossing == sending * receiving) & (sending + receiving == size)
    cut &= (given > 0) & (wanting > 0)
    return np.flatnonzero(cut), given[cut]
