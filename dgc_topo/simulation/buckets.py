"""Token buckets: links that let some bytes pass at once after a pause.

A shaped link (Linux's ``htb``, and what clouds rent out by rate) saves up what it does not carry,
to a limit, and so forgives short pauses: a message no longer than what was saved takes no time on
it, and a stream with gaps still gets its rate.  In the fluid model a flow that becomes active
moves at once what *all* links on its way have saved, and from then on its fair share.
"""

from __future__ import annotations

import numpy as np

from dgc_topo.arrays import FloatArray, IntArray
from dgc_topo.simulation.pool import FlowPool
from dgc_topo.simulation.resources import Resources


class Buckets:
    """What every link has saved; full at first.

    Args:
        pool: Where the flows are.
        resources: Links, and what a byte uses of them.
        burst_bytes: That a link saves at most.

    Attributes:
        moved_at_once: What of each resource was spared because it took no time: no processor is
            busy with it, shape (num_resources + 1,).
    """

    def __init__(self, pool: FlowPool, resources: Resources, burst_bytes: float) -> None:
        self._pool, self._resources, self._burst_bytes = pool, resources, burst_bytes
        self._saved = np.full(resources.num_links, float(burst_bytes))
        self._growth = np.zeros(resources.num_links)  # in bytes per second; below 0 in use
        self._since_s = 0.0
        self.moved_at_once = np.zeros(len(resources.capacity))

    def pay(self, slots: IntArray, now: float) -> None:
        """Move what flows that become active now get at once; their rates come later."""
        self._save_up(now)
        pool = self._pool
        weights = self._resources.weights(len(pool.hops))
        for slot in slots.tolist():
            hops = pool.hops[:, slot]
            used = np.ones(len(hops)) if weights is None else weights
            crossed = hops < len(self._saved)
            # A link that carries both ways is crossed by a message and by what acknowledges it.
            links, which = np.unique(hops[crossed], return_inverse=True)
            if not len(links):
                continue
            used_of_link = np.bincount(which, used[crossed])
            could = float((self._saved[links] / used_of_link).min())
            paid = min(could, float(pool.remaining[slot]))
            self._saved[links] -= paid * used_of_link
            pool.remaining[slot] -= paid
            np.add.at(self.moved_at_once, hops, paid * used)

    def note_rates(self, capacity: FloatArray, now: float) -> None:
        """Take note of new rates of the active flows, and of what links carry now."""
        self._save_up(now)
        pool, num_links = self._pool, len(self._saved)
        slots = np.flatnonzero(pool.active)
        hops = pool.hops[:, slots]
        weights = self._resources.weights(len(hops))
        each = np.ones((len(hops), 1)) if weights is None else weights[:, None]
        used = np.bincount(hops.ravel(), (each * pool.rate[slots]).ravel(), len(capacity))
        self._growth = capacity[:num_links] - used[:num_links]

    def _save_up(self, now: float) -> None:
        self._saved += self._growth * (now - self._since_s)
        np.clip(self._saved, 0.0, self._burst_bytes, out=self._saved)
        self._since_s = now
