"""Shape of a step: which of its flows are alone, and which share links or processors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dgc_topo.arrays import BoolArray, FloatArray, IntArray
from dgc_topo.simulation.inside_step import Budget, join_flows, solve_step
from dgc_topo.simulation.maxmin import SAME_RATE, max_min_rates
from dgc_topo.simulation.pattern import Pattern, as_one, is_one
from dgc_topo.simulation.resources import Resources


class StepShape(NamedTuple):
    """Sharing of resources by the flows of a step.

    Attributes:
        s_per_byte: Seconds per byte of each flow if it is alone, shape (num_flows,).
        shared: Flows that share resources with others; None if there are none.
        hops: Resources that these use, shape (max_hops, num_shared).
        groups: Number of the group of joined flows of each, shape (num_shared,).
        even_s_per_byte: Seconds per byte of each flow if all flows begin together and carry the
            same, shape (num_flows,); None if joined flows then differ.
    """

    s_per_byte: FloatArray
    shared: IntArray | None
    hops: IntArray
    groups: IntArray
    even_s_per_byte: FloatArray | None = None

    def duration_s(self, delay_s: FloatArray, flow_bytes: FloatArray) -> FloatArray | float:
        """Return the seconds of flows that are alone, as one number if they are alike."""
        return as_one(delay_s) + as_one(flow_bytes) * as_one(self.s_per_byte)

    def end_s(
        self,
        active_s: FloatArray,
        flow_bytes: FloatArray,
        resources: Resources,
        budget: Budget,
    ) -> FloatArray:
        """Return the ends of flows, some of which share resources, shape (num_flows,).

        Args:
            active_s: Time from which each flow moves bytes, shape (num_flows,).
            flow_bytes: Bytes of each flow, same shape.
            resources: Links and processors.
            budget: Work that may be spent.
        """
        if self.even_s_per_byte is not None and is_one(flow_bytes) and is_one(active_s):
            return active_s + flow_bytes * self.even_s_per_byte
        end_s = active_s + flow_bytes * self.s_per_byte
        which = self.shared
        assert which is not None
        end_s[which] = solve_step(
            self.hops,
            self.groups,
            active_s[which],
            flow_bytes[which],
            resources.capacity,
            resources.weights(len(self.hops)),
            budget,
        )
        return end_s


_NO_FLOWS = np.empty(0, np.int64)


def shape_of(pattern: Pattern, resources: Resources, harmless: BoolArray | None) -> StepShape:
    """Return the shape of a step.

    Args:
        pattern: Its flows.
        resources: Links and processors.
        harmless: Mask of the resources that never are the bottleneck; None if there are none.
    """
    hops = pattern.hops
    if harmless is not None:
        hops = np.where(harmless[hops], resources.pad, hops)
    shared = _NO_FLOWS
    if pattern.most_uses > 1:
        groups, alone = join_flows(hops, resources.capacity)
        shared = np.flatnonzero(~alone)
    if not len(shared):
        return StepShape(_alone_s_per_byte(hops, resources), None, hops, _NO_FLOWS)
    s_per_byte = np.zeros(hops.shape[1])
    s_per_byte[alone] = _alone_s_per_byte(hops[:, alone], resources)
    hops, groups = hops[:, shared], groups[shared]
    even_s_per_byte = _even_s_per_byte(s_per_byte, shared, hops, groups, resources)
    return StepShape(s_per_byte, shared, hops, groups, even_s_per_byte)


def _even_s_per_byte(
    s_per_byte: FloatArray, shared: IntArray, hops: IntArray, groups: IntArray, resources: Resources
) -> FloatArray | None:
    """Return `StepShape.even_s_per_byte`."""
    even = s_per_byte.copy()
    even[shared] = 1.0 / max_min_rates(hops, resources.capacity, resources.weights(len(hops)))
    slowest = np.zeros(int(groups.max()) + 1)
    np.maximum.at(slowest, groups, even[shared])
    if not (even[shared] >= slowest[groups] * (1 - SAME_RATE)).all():
        return None
    return np.broadcast_to(even[:1], even.shape) if is_one(even) else even


def _alone_s_per_byte(hops: IntArray, resources: Resources) -> FloatArray:
    """Return the seconds per byte of flows that are alone, shape (num_flows,)."""
    if not len(hops):  # all stay on their hosts
        return np.zeros(hops.shape[1])
    weights = resources.weights(len(hops))
    if weights is not None:
        # One flow may use a link for its bytes and for acknowledgements.
        use = [(weights[:, None] * (hops == hop)).sum(axis=0) for hop in hops]
        slowest = (np.array(use) / resources.capacity[hops]).max(axis=0)
        return np.asarray(slowest, np.float64)
    if resources.one_bandwidth is not None and hops.size and hops.max() < resources.num_links:
        return np.broadcast_to(1.0 / resources.one_bandwidth, (hops.shape[1],))
    return np.asarray(1.0 / resources.capacity[hops].min(axis=0, initial=np.inf))
