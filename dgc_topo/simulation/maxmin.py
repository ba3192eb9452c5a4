"""Max-min fair rates of flows by progressive filling, on arrays.

Law: a flow's rate can be raised only by lowering that of a flow that is no faster.  Every flow
has a *bottleneck*: a full link on which no other flow is faster (Bertsekas & Gallager, *Data
Networks*, 6.5.2).

Filling one bottleneck after the other takes as many rounds as there are different rates.  Here a
round fills every *local* bottleneck: a link whose equal share is no larger than the share that any
of its flows could have on its other links.  Filling a link never lowers the share of another link,
so a local bottleneck stays the bottleneck of its flows.  The result is therefore the same, and the
number of rounds is the length of the longest chain of dependent bottlenecks.

A round looks at all flows that are left.  Where a chain is long and each round fills little, the
links are therefore filled one by one, and only the flows of that link are looked at.
"""

from __future__ import annotations

import numpy as np

from dgc_topo.arrays import FloatArray, IntArray

#: Times closer than this (relative) are one instant; they differ only by rounding.
SAME_INSTANT = 1e-12
#: Shares closer than this (relative) are equal; they differ only by rounding.
SAME_RATE = 1e-12

#: A round that settles less than this share of the flows left is the last one.
WORTH_A_ROUND = 1 / 8


def max_min_rates(
    hops: IntArray, capacity: FloatArray, weights: FloatArray | None = None
) -> FloatArray:
    """Return the max-min fair rate of each flow.

    Args:
        hops: Links crossed by each flow, shape (max_links, num_flows); hop-major, because the
            solver reads one hop of all flows at a time.  A flow that crosses fewer links names a
            link of infinite capacity for the rest.
        capacity: Capacity of each link in bytes per second, shape (num_links,); 0 for a dead link.
        weights: Use of each hop's capacity by one byte of a flow, shape (max_links,); by default 1.
            An equal share still is an equal rate, whatever the weights.  A hop of weight 0 has to
            name a link of infinite capacity.

    Returns:
        Rates in bytes per second, shape (num_flows,); infinite without any finite link.
    """
    if hops.size * 4 < len(capacity):  # few flows in a large network: use only their links
        links, inverse = np.unique(hops, return_inverse=True)
        return _fill(inverse.reshape(hops.shape), capacity[links], weights)
    return _fill(hops, capacity, weights)


def use_of_links(
    hops: IntArray, rates: FloatArray | None, weights: FloatArray | None, num_links: int
) -> FloatArray:
    """Return the use of each link by flows at their *rates* (1 if left out), shape (num_links,).

    Flows of infinite rate only cross links without a limit, of which the use does not matter.
    """
    if rates is None and weights is None:
        return np.bincount(hops.ravel(), minlength=num_links).astype(np.float64)
    used = np.ones(hops.shape[1]) if rates is None else np.where(np.isfinite(rates), rates, 0.0)
    per_hop = np.ones((len(hops), 1)) if weights is None else weights[: len(hops), None]
    return np.bincount(hops.ravel(), (per_hop * used).ravel(), num_links).astype(np.float64)


def _fill(hops: IntArray, capacity: FloatArray, weights: FloatArray | None) -> FloatArray:
    num_links = len(capacity)
    rates = np.empty(hops.shape[1])
    waiting = np.arange(hops.shape[1])
    residual = capacity.astype(np.float64)
    finite = np.isfinite(residual)
    while True:
        users = use_of_links(hops, None, weights, num_links)
        share = _shares(residual, users)
        per_hop = share[hops]
        level = per_hop.min(axis=0)  # highest rate that each flow can still get
        if level.min() >= level.max() * (1 - SAME_RATE):
            rates[waiting] = level
            return rates
        lowest = np.full(num_links, np.inf)
        np.minimum.at(lowest, hops.ravel(), np.broadcast_to(level, hops.shape).ravel())
        bottleneck = share <= lowest * (1 + SAME_RATE)
        fixed = np.asarray(bottleneck[hops].any(axis=0))
        rates[waiting[fixed]] = level[fixed]
        open_ = ~fixed
        num_fixed = len(fixed) - int(open_.sum())
        if num_fixed == len(fixed):
            return rates
        taken = use_of_links(hops[:, fixed], level[fixed], weights, num_links)
        residual[finite] = np.maximum(residual[finite] - taken[finite], 0.0)
        waiting, hops = waiting[open_], hops[:, open_]
        if num_fixed < WORTH_A_ROUND * len(fixed):
            rates[waiting] = _fill_in_order(hops, residual, weights)
            return rates


def _fill_in_order(hops: IntArray, residual: FloatArray, weights: FloatArray | None) -> FloatArray:
    """Return the rates as `_fill` does, but fill one link after the other, the tightest first.

    Args:
        hops: Links crossed by each flow, shape (max_links, num_flows).
        residual: Capacity that is left on each link, shape (num_links,).
        weights: Use of each hop's capacity by one byte, or None.
    """
    num_links, num_flows = len(residual), hops.shape[1]
    flows, first = _flows_by_link(hops, num_links)
    crossings = np.diff(first)  # of each link, by flows that have no rate yet
    users = use_of_links(hops, None, weights, num_links)
    rates = np.full(num_flows, np.inf)
    is_open = np.ones(num_flows, np.bool_)
    while True:
        share = _shares(residual, np.where(crossings > 0, users, 0.0))
        link = int(share.argmin())
        level = share[link]
        if level == np.inf:
            return rates
        mine = flows[first[link] : first[link + 1]]
        mine = mine[is_open[mine]]
        if weights is not None:
            mine = np.unique(mine)  # a flow may cross a machine twice
        rates[mine], is_open[mine] = level, False
        crossings -= np.bincount(hops[:, mine].ravel(), minlength=num_links)
        used = use_of_links(hops[:, mine], None, weights, num_links)
        users -= used
        residual = np.maximum(residual - level * used, 0.0)


def _flows_by_link(hops: IntArray, num_links: int) -> tuple[IntArray, IntArray]:
    """Return the flows of each link, one link after the other, and where each begins."""
    crossed = hops.ravel()
    if num_links <= np.iinfo(np.uint16).max:
        crossed = crossed.astype(np.uint16)  # these are sorted by radix
    flows = np.argsort(crossed, kind="stable") % hops.shape[1]
    return flows, np.concatenate([[0], np.cumsum(np.bincount(crossed, minlength=num_links))])


def _shares(residual: FloatArray, users: FloatArray) -> FloatArray:
    shares = np.full(len(users), np.inf)
    np.divide(residual, users, out=shares, where=users > 0)
    return shares
