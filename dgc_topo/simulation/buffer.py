"""`Buffer`: what every rank contributes to a collective, dense or as sparse entries."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

import numpy as np

from dgc_topo.network.cluster import Cluster
from dgc_topo.schedule import Schedule
from dgc_topo.schedule.completion import Merge
from dgc_topo.schedule.cost import count_cost
from dgc_topo.simulation.arguments import check_balance, check_density, check_density_of
from dgc_topo.simulation.bounds import goal_bound_s, network_bound_s
from dgc_topo.simulation.placed_sizes import PlacedSizes
from dgc_topo.simulation.step_sizes import Sizes
from dgc_topo.simulation.transfer_sizes import DenseSizes, UnionSizes
from dgc_topo.simulation.unions import Growth, growth_of
from dgc_topo.sizes import FLOAT_BYTES, entries_of, is_sparse
from dgc_topo.wire.coding import DENSE_BYTES, WireCoding, check_dense_dtype


@dataclass(frozen=True, slots=True)
class Buffer:
    """Buffer that every rank contributes to a collective, dense or as sparse entries.

    Attributes:
        num_bytes: Size of the dense float32 buffer.
        density: Fraction of the elements that are sent, with indices; 1 is the dense buffer.
        coding: Coding of sparse messages, and type of all values on the wire.
        union_exponent: Growth of sparse unions, see `power_growth`; None if ranks choose their
            entries independently.
        merge: Policy of sparse sums, see `UnionSizes`.
        balance: True if an exact sum takes two passes, see `PlacedSizes`.

    Raises:
        ValueError: if a number makes no sense, or exponent, policy or balance have nothing to act
            on.
    """

    num_bytes: float
    density: float = 1.0
    coding: WireCoding = field(default_factory=WireCoding)
    union_exponent: float | None = None
    merge: Merge = "union"
    balance: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.num_bytes < inf:
            raise ValueError(f"nbytes {self.num_bytes}: expected 0 or more, and finite")
        check_density(self.density)
        check_balance(self.merge, self.density, balance=self.balance)
        if not self.is_sparse:
            check_density_of(self.merge)
            check_dense_dtype("density 1", self.coding.wire_dtype)
        if self.union_exponent is None:
            return
        if not self.is_sparse:
            raise ValueError("union_exponent: is for sparse sizes, expected density below 1")
        if not 0 <= self.union_exponent <= 1:
            raise ValueError(f"union_exponent {self.union_exponent}: expected 0 to 1")

    @property
    def is_sparse(self) -> bool:
        """True if entries are sent."""
        return is_sparse(self.density)

    @property
    def dense_bytes(self) -> float:
        """Bytes of the dense buffer on the wire."""
        return self.num_bytes * (DENSE_BYTES[self.coding.wire_dtype] / FLOAT_BYTES)

    @property
    def num_elements(self) -> int:
        """Number of elements, at least 1."""
        return max(1, round(self.num_bytes / FLOAT_BYTES))

    @property
    def num_entries(self) -> int:
        """Number of entries that one rank sends if they are sparse; at least 1 of any at all."""
        return entries_of(self.num_elements, self.density) if self.num_bytes else 0

    def sizes(self, schedule: Schedule) -> Sizes:
        """Return the bytes of the transfers of *schedule*."""
        if not self.is_sparse:
            return DenseSizes(self.dense_bytes, schedule.num_chunks)
        if self.balance:
            return PlacedSizes(
                schedule,
                length=self.num_elements,
                entries=self.num_entries,
                coding=self.coding,
                growth=growth_of(self.num_elements, self.num_entries, self.union_exponent),
            )
        return UnionSizes(
            schedule,
            length=self.num_elements,
            entries=self.num_entries,
            coding=self.coding,
            union_exponent=self.union_exponent,
            merge=self.merge,
        )

    def union_bytes(self) -> Growth:
        """Return the least bytes of the union of some contributors' buffers.

        If complete sums are cut, no cut of the network has to be crossed by more than the share
        that is left.
        """
        if not self.is_sparse:
            return lambda contributors: np.where(contributors > 0, self.dense_bytes, 0.0)
        exponent = self.union_exponent if self.merge == "union" else 0.0
        growth = growth_of(self.num_elements, self.num_entries, exponent)
        return lambda contributors: self.coding.least_bytes(self.num_elements, growth(contributors))

    def lower_bound_s(self, schedule: Schedule, cluster: Cluster) -> float:
        """Return a time that no schedule with the same goal can beat on *cluster*."""
        cost, union_bytes, network = count_cost(schedule), self.union_bytes(), cluster.network
        if cluster.fabric is not None:
            port, alpha_s = float(network.bandwidth_bytes_per_s[0]), 2 * float(network.latency_s[0])
            own, merged = union_bytes(np.array([1, len(schedule.contributors) - 1])).tolist()
            sparse = merged if self.is_sparse else None
            return goal_bound_s(schedule, cost, own, port, alpha_s, sparse)
        return network_bound_s(
            schedule,
            cost,
            union_bytes,
            network,
            cluster.placement,
            is_dense=not self.is_sparse,
            changes=cluster.changes,
        )
