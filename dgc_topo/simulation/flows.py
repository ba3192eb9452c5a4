"""Simulation of independent flows given as arrays, such as background traffic."""

from __future__ import annotations

import numpy as np
import simpy

from dgc_topo.arrays import FloatArray, IntArray
from dgc_topo.network.cluster import load_cluster
from dgc_topo.network.fabrics import Fabric
from dgc_topo.network.network import Network
from dgc_topo.simulation.fluid import Fluid


class Flows:
    """Owner of independent flows with given start times; each is a connection of its own.

    Args:
        fluid: The network's flows.
        src: Sending host of each flow, shape (num_flows,).
        dst: Receiving host of each flow.
        num_bytes: Size of each flow.
        start_s: Time at which it starts.

    Attributes:
        finish_s: Time at which each flow ended; NaN until then.
        finished: Event that succeeds when all have ended.

    Raises:
        ValueError: if an array has another shape, a host does not exist, or a number is negative.
    """

    def __init__(
        self, fluid: Fluid, src: IntArray, dst: IntArray, num_bytes: FloatArray, start_s: FloatArray
    ) -> None:
        self._fluid, self._env = fluid, fluid.env
        self._number = fluid.add_owner(self)
        src, dst = np.asarray(src, np.int64), np.asarray(dst, np.int64)
        num_bytes, start_s = np.asarray(num_bytes, np.float64), np.asarray(start_s, np.float64)
        _check(src, dst, num_bytes, start_s)
        self.finish_s = np.full(len(src), np.nan)
        self.finished = self._env.event()
        self._left = len(src)
        if not self._left:
            self.finished.succeed()
            return
        # A flow that has not begun is a waiting flow: its delay is its start plus its latency.
        hops, latency_s = fluid.resources.of_messages(src, dst)
        delay_s = np.maximum(start_s - self._env.now, 0.0) + latency_s
        fluid.start(hops, delay_s, num_bytes, np.arange(len(src)), self._number)

    def ended(self, tags: IntArray) -> None:
        """Record the time at which flows have ended."""
        self.finish_s[tags] = self._env.now
        self._left -= len(tags)

    def ended_one(self, tag: int) -> None:
        """Record the time at which one flow has ended."""
        self.finish_s[tag] = self._env.now
        self._left -= 1

    def settled(self) -> None:
        """Succeed `finished` when all flows have ended."""
        if not self._left and not self.finished.triggered:
            self.finished.succeed()


def simulate_flows(
    network: Network | Fabric | str,
    src: IntArray,
    dst: IntArray,
    num_bytes: FloatArray,
    start_s: FloatArray,
) -> FloatArray:
    """Return the time at which each of some independent flows ends.

    Args:
        network: Hosts and links; of a fabric, or its name, a star of as many hosts.
        src: Sending host of each flow, shape (num_flows,).
        dst: Receiving host, shape (num_flows,).
        num_bytes: Size of each flow; 0 costs the latency only.
        start_s: Time at which each flow starts.

    Returns:
        Times, shape (num_flows,).

    Raises:
        ValueError: if an array has another shape, a host does not exist, or a number is negative.
    """
    env = simpy.Environment()
    if not isinstance(network, Network):
        num_hosts = 1 + max(int(np.max(end, initial=0)) for end in (src, dst))
        network = load_cluster(network, num_hosts).network
    flows = Flows(Fluid(env, network), src, dst, num_bytes, start_s)
    env.run(until=flows.finished)
    return flows.finish_s


def _check(src: IntArray, dst: IntArray, num_bytes: FloatArray, start_s: FloatArray) -> None:
    shapes = {array.shape for array in (src, dst, num_bytes, start_s)}
    if len(shapes) != 1 or src.ndim != 1:
        raise ValueError(f"flows: arrays of shapes {sorted(shapes)}, expected one length")
    for name, values in (("num_bytes", num_bytes), ("start_s", start_s)):
        wrong = ~((values >= 0) & np.isfinite(values))
        if wrong.any():
            flow = int(np.argmax(wrong))
            raise ValueError(f"flow {flow}: {name} {values[flow]}, expected a number >= 0")
