"""`simulate`: one collective, run once by a topology on a cluster, dense or sparse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dgc_topo.arrays import FloatArray
from dgc_topo.network.cluster import Cluster, Source, load_cluster
from dgc_topo.scalars import plain_float
from dgc_topo.schedule import Goal, Schedule
from dgc_topo.simulation.arguments import (
    as_bytes,
    as_fraction,
    as_merge,
    as_topology,
    number_of_ranks,
    schedule_of,
    topology_text,
)
from dgc_topo.simulation.buffer import Buffer
from dgc_topo.simulation.engines import Engine
from dgc_topo.simulation.placed_sizes import twice
from dgc_topo.simulation.run import ScheduleRun, simulate_schedule
from dgc_topo.text import html_facts
from dgc_topo.topology import Topology
from dgc_topo.units import bytes_text, seconds_text
from dgc_topo.wire.coding import WireCoding

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Simulation:
    """One collective in simulated time.

    Attributes:
        topology: Text of the topology.
        cluster: Name of the cluster.
        world_size: Number of ranks.
        buffer: Buffer that every rank contributed.
        goal: Goal of the schedule.
        run: Run of the schedule: times of each rank, bytes and bounds.
        lower_bound_s: Seconds that no schedule with the same goal can beat there.
    """

    topology: str
    cluster: str
    world_size: int
    buffer: Buffer
    goal: Goal
    run: ScheduleRun
    lower_bound_s: float

    @property
    def time_s(self) -> float:
        """Seconds until the slowest rank is done."""
        return self.run.time_s

    @property
    def bound_s(self) -> float:
        """Seconds that the busiest resource alone needs for this schedule."""
        return self.run.bounds.largest_s

    @property
    def bound_by(self) -> str:
        """Name of that resource: a link, a CPU, or latency."""
        return self.run.bounds.bound_by

    @property
    def bytes_sent(self) -> FloatArray:
        """Bytes sent by each rank, shape (world_size,)."""
        return self.run.bytes_sent

    @property
    def bytes_per_rank(self) -> float:
        """Bytes sent by the busiest rank."""
        return float(self.run.bytes_sent.max())

    @property
    def algbw_bytes_per_s(self) -> float:
        """Bytes of the dense buffer over time; 0 if it took none."""
        return self.buffer.num_bytes / self.time_s if self.time_s else 0.0

    @property
    def busbw_bytes_per_s(self) -> float:
        """Bandwidth that compares with a port's; 0 if the run took no time.

        For an all-reduce as in nccl-tests, of dense bytes; else what the busiest rank sends.
        """
        if not self.time_s:
            return 0.0
        if self.goal == "all-reduce":
            return self.run.busbw_bytes_per_s(self.buffer.num_bytes)
        return self.bytes_per_rank / self.time_s

    def as_dict(self) -> dict[str, object]:
        """Return the settings and the results as plain numbers and texts."""
        return {
            "topology": self.topology,
            "world_size": self.world_size,
            "network": self.cluster,
            "num_bytes": self.buffer.num_bytes,
            "density": self.buffer.density,
            "time_s": self.time_s,
            "messages": self.run.messages,
            "bytes_per_rank": self.bytes_per_rank,
            "algbw_bytes_per_s": self.algbw_bytes_per_s,
            "busbw_bytes_per_s": self.busbw_bytes_per_s,
            "lower_bound_s": self.lower_bound_s,
            "bound_by": self.bound_by,
            "wall_s": self.run.wall_s,
        }

    def to_frame(self) -> pd.DataFrame:
        """Return `as_dict` as a table with one row."""
        return frame_of(self.as_dict())

    def __repr__(self) -> str:
        sparse = f" at density {self.buffer.density:g}" if self.buffer.is_sparse else ""
        return (
            f"Simulation({self.topology!r}, {self.world_size} ranks on {self.cluster}, "
            f"{bytes_text(self.buffer.num_bytes)}{sparse}: {seconds_text(self.time_s)}, "
            f"bound by {self.bound_by})"
        )

    def _repr_html_(self) -> str:
        density = f", density {self.buffer.density:g}" if self.buffer.is_sparse else ""
        rows = {
            "time": f"{seconds_text(self.time_s)}, bound by {self.bound_by}",
            "lower bound of any schedule": seconds_text(self.lower_bound_s),
            "sent by the busiest rank": bytes_text(self.bytes_per_rank),
            "algbw": f"{bytes_text(self.algbw_bytes_per_s)}/s",
            "busbw": f"{bytes_text(self.busbw_bytes_per_s)}/s",
        }
        size = bytes_text(self.buffer.num_bytes)
        title = f"{self.topology}, {self.world_size} ranks on {self.cluster}, {size}{density}"
        return html_facts(title, rows)


def simulate(  # noqa: PLR0913 - one argument per fact that a user may want to set
    topology: Topology | Schedule | str | Path,
    cluster: Source,
    nbytes: float | str,
    *,
    density: float | str = 1.0,
    world_size: int | None = None,
    iteration: int = 0,
    seed: int = 0,
    union_exponent: float | None = None,
    index_encoding: str = "auto",
    wire_dtype: str = "float32",
    merge: str = "union",
    balance: bool = False,
    engine: Engine = "auto",
) -> Simulation:
    """Simulate a topology once on a cluster, and return its time, traffic and bounds.

    Args:
        topology: Topology, its text such as ``ring`` or ``gossip:graph=ring``, or a schedule.
        cluster: Cluster, or a source for `load_cluster`, such as ``1gbe``.
        nbytes: Size of every rank's dense float32 buffer, in bytes or as a text such as ``100MB``.
        density: Fraction of the elements that are sent, such as 0.001 or ``0.1%``; 1 is dense.
        world_size: Number of ranks, if neither a schedule nor the cluster has it.
        iteration: Iteration of a topology that varies.
        seed: Seed of a topology that draws at random.
        union_exponent: Growth of sparse unions: the entries of c ranks merge into c**exponent times
            one rank's (1: disjoint, 0: identical); by default entries are independent.
        index_encoding: Coding of indices in sparse messages.
        wire_dtype: Type of values on the wire.
        merge: Policy of sparse sums: ``union`` is exact; ``reselect`` and ``auto`` send a complete
            chunk on with no more entries than one rank sends of it.
        balance: True for an exact sparse sum in two passes, places first, as `all_reduce` has it.
        engine: ``bulk`` takes whole steps at once and is fast, but refuses what it cannot prove to
            be exact: messages of different steps that could meet on a link or a processor, other
            jobs' traffic, links that change.  ``events`` takes anything.  ``auto``, the default,
            is the faster one that is exact.

    Raises:
        ValueError: if an argument is out of range or does not fit the others, naming it.
        UnreachableError: if links fail for good and ranks wait for ever.

    Example:
        >>> dt.simulate("ring", "1gbe", "100MB", world_size=64)
        Simulation('ring', 64 ranks on 1gbe, 100 MB: 1.70 s, bound by host 0 up (and 127 more))
        >>> dt.simulate("ring", dt.load_cluster("1gbe", 64), 100e6, density=0.001).time_s < 0.2
        True
    """
    buffer = Buffer(
        as_bytes(nbytes, "nbytes"),
        as_fraction(density),
        WireCoding.named(index_encoding, wire_dtype),
        None if union_exponent is None else plain_float("union_exponent", union_exponent),
        as_merge(merge),
        balance,
    )
    num_ranks = number_of_ranks(topology, cluster, world_size)
    topology = as_topology(topology)
    schedule = schedule_of(topology, num_ranks, iteration, seed)
    return simulate_buffer(topology, schedule, load_cluster(cluster, num_ranks), buffer, engine)


def simulate_buffer(
    topology: Topology | Schedule,
    schedule: Schedule,
    cluster: Cluster,
    buffer: Buffer,
    engine: Engine = "auto",
) -> Simulation:
    """Simulate the *schedule* of a topology for a buffer on a cluster."""
    run = twice(schedule) if buffer.balance else schedule
    return Simulation(
        topology_text(topology),
        cluster.name,
        schedule.world_size,
        buffer,
        schedule.goal,
        simulate_schedule(run, cluster, buffer.sizes(schedule), engine=engine),
        buffer.lower_bound_s(schedule, cluster),
    )


def frame_of(facts: Mapping[str, object]) -> pd.DataFrame:
    """Return facts as a table with one row."""
    import pandas as pd  # noqa: PLC0415 - takes longer to import than a simulation takes

    return pd.DataFrame([dict(facts)])
