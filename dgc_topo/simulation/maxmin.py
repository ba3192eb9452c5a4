"""Max-min fair rates of flows by progressive filling, on arrays.

Law: a flow's rate can be raised only by lowering that of a flow that is no faster.  Every flow
has a *bottleneck*: a full link on which no other flow is faster (Bertsekas & Gallager, *Data
Networks*, 6.5.2).

Filling one bottleneck after the other takes as many rounds as there are different rates.  Here a
round fills every *local* bottleneck: a link whose equal share is no larger than the share that any
of its flows could have on its other links.  Filling a link never lowers the share of another link,
so a local bottleneck stays the bottleneck of its flows.  The result is therefore the same, and the
number of rounds is the length of the longest chain of dependent bottlenecks.
"""

from __future__ import annotations

import numpy as np

from dgc_topo.arrays import FloatArray, IntArray

#: Shares closer than this (relative) are equal; they differ only by rounding.
SAME_RATE = 1e-12


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


def _fill(hops: IntArray, capacity: FloatArray, weights: FloatArray | None) -> FloatArray:
    num_links = len(capacity)
    rates = np.empty(hops.shape[1])
    waiting = np.arange(hops.shape[1])
    residual = capacity.astype(np.float64)
    finite = np.isfinite(residual)
    while True:
        users = _use(hops, None, weights, num_links)
        share = np.divide(residual, users, out=np.full(num_links, np.inf), where=users > 0)
        per_hop = share[hops]
        level = per_hop.min(axis=0)  # highest rate that each flow can still get
        if level.min() >= level.max() * (1 - SAME_RATE):
            rates[waiting] = level
            return rates
        lowest = np.full(num_links, np.inf)
        np.minimum.at(lowest, hops.ravel(), np.broadcast_to(level, hops.shape).ravel())
        bottleneck = share <= lowest * (1 + SAME_RATE)
        fixed = bottleneck[hops].any(axis=0)
        rates[waiting[fixed]] = level[fixed]
        open_ = ~fixed
        if not open_.any():
            return rates
        taken = _use(hops[:, fixed], level[fixed], weights, num_links)
        residual[finite] = np.maximum(residual[finite] - taken[finite], 0.0)
        waiting, hops = waiting[open_], hops[:, open_]


def _use(
    hops: IntArray, rates: FloatArray | None, weights: FloatArray | None, num_links: int
) -> FloatArray:
    """Return the use of each link by flows at their *rates* (1 if left out), shape (num_links,)."""
    if rates is None and weights is None:
        return np.bincount(hops.ravel(), minlength=num_links).astype(np.float64)
    used = np.ones(hops.shape[1]) if rates is None else rates
    per_hop = np.ones((len(hops), 1)) if weights is None else weights[: len(hops), None]
    return np.bincount(hops.ravel(), (per_hop * used).ravel(), num_links).astype(np.float64)
