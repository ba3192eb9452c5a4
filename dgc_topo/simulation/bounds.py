"""Lower bounds on the time of any schedule with a given goal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dgc_topo.arrays import BoolArray, IntArray
from dgc_topo.network.changes import LinkChange, carry_times_s
from dgc_topo.network.network import Network
from dgc_topo.schedule import Schedule
from dgc_topo.schedule.cost import Cost
from dgc_topo.simulation.unions import Growth

#: Most ranks of which every pair is examined.
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

    - ``ceil(lg p) * alpha``: per message time a contribution reaches at most twice as many ranks;
      with k messages at once ``k + 1`` times as many, so the base of the logarithm is ``k + 1``.
    - ``2 (p - 1) / p * n / bandwidth``: bytes that some rank's port has to carry if the ranks do
      the reduction themselves (Patarasuk & Yuan, 2009).  Count dedicated servers as ranks, too;
      otherwise they can beat this bound.

    Args:
        num_ranks: Ranks that take part (p), at least 1.
        num_bytes: Size of the buffer (n).
        bandwidth_bytes_per_s: Bandwidth of a rank's port, each way.
        latency_s: Latency one way, host to host (alpha).
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
    while reached < num_ranks:  # in integers, because a logarithm may round the wrong way
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
    """Return a time that no schedule of the same goal and ranks can beat with equal ports.

    - An all-reduce: `lower_bound_s`.  With s servers, which contribute nothing, w contributors send
      and receive every byte at least once, and ``2 (w - 1)`` times in all over ``w + s`` ports.
    - Gossip: one neighbour's buffer (or less, if the schedule sends less): ``alpha + n / B``.
    - A building block promises nothing: 0.

    Args:
        schedule: Schedule whose goal, ranks and servers count.
        cost: Cost of the schedule, which limits the messages that a rank sends at once.
        num_bytes: Bytes that one contributor gives (n).
        bandwidth_bytes_per_s: Bandwidth of a rank's port, each way.
        latency_s: One way, host to host (alpha).
        merged_bytes: For sparse gradients, bytes of the union of all contributors but one, the
            least that each must receive in an all-reduce.  By default the gradients are dense.

    Raises:
        ValueError: if a number makes no sense, or the cost is another schedule's.
    """
    port = _Port(bandwidth_bytes_per_s)
    return _goal_bound_s(schedule, cost, (num_bytes, merged_bytes), port, latency_s)


class _Port(NamedTuple):
    """Speed at which a rank can send, or receive, over all its links."""

    bandwidth_bytes_per_s: float
    burst_bytes: float = 0.0  #: bytes that its links may have saved up before

    def time_s(self, num_bytes: float) -> float:
        return max(num_bytes - self.burst_bytes, 0.0) / self.bandwidth_bytes_per_s


def _goal_bound_s(
    schedule: Schedule,
    cost: Cost,
    own_and_merged_bytes: tuple[float, float | None],
    port: _Port,
    latency_s: float,
) -> float:
    if (len(cost.messages_sent), cost.num_chunks) != (schedule.world_size, schedule.num_chunks):
        raise ValueError(
            f"lower bound: cost of {len(cost.messages_sent)} ranks and {cost.num_chunks} chunks "
            f"for a schedule of {schedule.world_size} and {schedule.num_chunks}; expected its own"
        )
    num_bytes, merged_bytes = own_and_merged_bytes
    contributors = len(schedule.contributors)
    latency_only_s = lower_bound_s(
        max(contributors, 1),
        0.0,
        port.bandwidth_bytes_per_s,
        latency_s,
        messages_at_once=max(1, cost.most_per_step),
    )
    if schedule.goal == "part" or not cost.num_messages:
        return 0.0
    if schedule.goal != "all-reduce":
        return latency_s + port.time_s(min(1.0, cost.buffers_sent) * num_bytes)
    if merged_bytes is None:
        times = max(1.0, 2 * (contributors - 1) / schedule.world_size) if contributors > 1 else 0.0
        merged_bytes = times * num_bytes
    return max(latency_only_s, port.time_s(merged_bytes))


def network_bound_s(
    schedule: Schedule,
    cost: Cost,
    union_bytes: Growth,
    network: Network,
    hosts: IntArray,
    *,
    is_dense: bool = True,
    changes: Sequence[LinkChange] = (),
) -> float:
    """Return a time that no schedule with the same goal can beat on any network.

    The largest of three:

    - `goal_bound_s`, if all ports were as wide as the widest and all routes as short as the
      shortest;
    - in an all-reduce, for each link that cuts the ranks in two: the bytes of the ranks on one side
      have to cross it at least once.  A host's down link is such a cut, and so is a rack's uplink;
    - in an all-reduce, for each link that carries all traffic of a contributor, such as a duplex
      limit: the contributor's bytes and those of the others.

    The bound includes the bytes that links have saved up (`EndCosts.burst_bytes`) and changes of
    bandwidth.  Costs at the ends of messages and other jobs' traffic can only add to it.

    Args:
        schedule: Schedule whose goal, ranks and servers count.
        cost: Cost of the schedule.
        union_bytes: Function from numbers of contributors to the bytes of their union.
        network: Bandwidths, latencies and routes.
        hosts: Host of each rank, shape (world_size,).
        is_dense: True if *union_bytes* is the same for any number of contributors.
        changes: Links that fail or change their bandwidth on the way.

    Returns:
        Seconds; 0 if there are too many ranks to examine each pair.
    """
    if not 1 < len(hosts) <= MAX_RANKS:
        return 0.0
    ways = _Ways.between(schedule, network, hosts)
    if (ways.routes < 0).all(axis=1).any():
        return 0.0  # two ranks share a host, where nothing takes time
    latency_s = np.append(network.latency_s, 0.0)[ways.routes].sum(axis=1)  # -1 is the last
    own, merged = union_bytes(np.array([1, len(schedule.contributors) - 1])).tolist()
    bound_s = _goal_bound_s(
        schedule,
        cost,
        (own, None if is_dense else merged),
        _widest_port(network, ways, changes),
        float(latency_s.min()),
    )
    if schedule.goal != "all-reduce" or not cost.num_messages:
        return bound_s
    needed_bytes = np.zeros(network.num_links)
    cuts, given = ways.cuts()
    needed_bytes[cuts] = union_bytes(given)
    both = ways.both_ways()
    needed_bytes[both] = np.maximum(needed_bytes[both], own + merged)
    return max(bound_s, float(carry_times_s(network, needed_bytes, changes).max(initial=0.0)))


class _Ways(NamedTuple):
    """Routes between all ordered pairs of ranks.

    Attributes:
        src: Sending rank of each pair.
        dst: Receiving rank.
        routes: Links of each, padded with -1.
        is_contributor: Mask of the contributing ranks, shape (world_size,).
        num_links: Number of links of the network.
    """

    src: IntArray
    dst: IntArray
    routes: IntArray
    is_contributor: BoolArray
    num_links: int

    @classmethod
    def between(cls, schedule: Schedule, network: Network, hosts: IntArray) -> _Ways:
        """Return the ways between the ranks of *schedule* on these *hosts*."""
        ranks = np.arange(len(hosts))
        src, dst = (grid.ravel() for grid in np.meshgrid(ranks, ranks, indexing="ij"))
        src, dst = src[src != dst], dst[src != dst]
        is_contributor = np.zeros(len(hosts), np.bool_)
        is_contributor[schedule.contributors] = True
        routes = network.routes(hosts[src], hosts[dst])
        return cls(src, dst, routes, is_contributor, network.num_links)

    def _crossings(self, ranks: IntArray) -> IntArray:
        """Return the number of each rank's routes over each link, shape (num_links, ranks)."""
        flows, hops = np.nonzero(self.routes >= 0)
        size = len(self.is_contributor)
        cells = self.routes[flows, hops] * size + ranks[flows]
        return np.bincount(cells, minlength=self.num_links * size).reshape(self.num_links, size)

    def cuts(self) -> tuple[IntArray, IntArray]:
        """Return the links that all traffic from some ranks to all others crosses.

        Returns:
            The links, and how many contributors are on the sending side of each; only those with a
            contributor on the other side, too.
        """
        leaving, arriving = self._crossings(self.src), self._crossings(self.dst)
        sending, receiving = (leaving > 0).sum(axis=1), (arriving > 0).sum(axis=1)
        given = ((leaving > 0) & self.is_contributor).sum(axis=1)
        wanting = ((arriving > 0) & self.is_contributor).sum(axis=1)
        cut = leaving.sum(axis=1) == sending * receiving
        cut &= (sending + receiving == len(self.is_contributor)) & (given > 0) & (wanting > 0)
        return np.flatnonzero(cut), given[cut]

    def both_ways(self) -> IntArray:
        """Return the links that carry all traffic of a contributor, if there are several."""
        others = len(self.is_contributor) - 1
        both = (self._crossings(self.src) == others) & (self._crossings(self.dst) == others)
        several = np.count_nonzero(self.is_contributor) > 1
        return np.flatnonzero((both & self.is_contributor).any(axis=1) & several)


def _widest_port(network: Network, ways: _Ways, changes: Sequence[LinkChange]) -> _Port:
    """Return the fastest port that any rank can have, at its links' highest bandwidth."""
    best = network.bandwidth_bytes_per_s.copy()
    for change in changes:
        links = list(change.links)
        faster = network.bandwidth_bytes_per_s[links] * change.factor
        best[links] = np.maximum(best[links], faster)
    last = ways.routes[np.arange(len(ways.routes)), (ways.routes >= 0).sum(axis=1) - 1]
    widest, most_links = 0.0, 0
    for rank, link in ((ways.src, ways.routes[:, 0]), (ways.dst, last)):
        pairs = np.unique(rank * network.num_links + link)
        ranks, links_of = pairs // network.num_links, pairs % network.num_links
        widest = max(widest, float(np.bincount(ranks, best[links_of]).max()))
        most_links = max(most_links, int(np.bincount(ranks).max()))
    return _Port(widest, most_links * network.costs.burst_bytes)
