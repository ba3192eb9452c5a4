"""One topology run once on one network: what it takes, as a table or one JSON object."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table
from rich.text import Text

from dgc_topo.cli.console import console, print_json
from dgc_topo.files import write_whole
from dgc_topo.network import Cluster
from dgc_topo.schedule import Goal, Schedule
from dgc_topo.schedule.cost import count_cost
from dgc_topo.simulation import (
    DenseSizes,
    ScheduleRun,
    Sizes,
    UnionSizes,
    goal_bound_s,
    network_bound_s,
    simulate_schedule,
    write_goal,
)
from dgc_topo.simulation.unions import Growth, growth_of
from dgc_topo.sizes import FLOAT_BYTES, entries_of, is_sparse
from dgc_topo.text import printable
from dgc_topo.topology import Topology
from dgc_topo.units import bytes_text, seconds_text
from dgc_topo.wire.coding import WireCoding

_CODING = WireCoding()


@dataclass(frozen=True, slots=True)
class Case:
    """One topology on one network.

    Attributes:
        topology: With its options.
        num_bytes: Size of the dense buffer.
        cluster: Ranks on a network, and what else happens there.
        density: Fraction of the elements sent, or None for dense.
        union_exponent: How sparse unions grow, or None for independent entries.
        seed: For topologies that draw at random.

    Raises:
        ValueError: naming the option that makes no sense.
    """

    topology: Topology
    num_bytes: float
    cluster: Cluster
    density: float | None
    union_exponent: float | None
    seed: int

    def __post_init__(self) -> None:
        if self.density is not None and not 0 < self.density <= 1:
            raise ValueError(f"--density {self.density}: expected above 0, at most 1")
        if self.union_exponent is None:
            return
        if not self.is_sparse:
            raise ValueError("--union-exponent: is for sparse sizes, expected --density below 1")
        if not 0 <= self.union_exponent <= 1:
            raise ValueError(f"--union-exponent {self.union_exponent}: expected 0 to 1")

    @property
    def is_sparse(self) -> bool:
        """Whether sparse entries are sent; density 1 is the dense buffer, without indices."""
        return self.density is not None and is_sparse(self.density)

    @property
    def num_elements(self) -> int:
        """Elements of the buffer (fp32), at least 1."""
        return max(1, round(self.num_bytes / FLOAT_BYTES))

    @property
    def num_entries(self) -> int:
        """Entries that one rank sends, if they are sparse; at least 1 of any at all."""
        return entries_of(self.num_elements, self.density or 1.0) if self.num_bytes else 0

    def schedule(self) -> Schedule:
        """Return the schedule (of the first iteration, if it varies)."""
        return self.topology.schedule(self.cluster.num_ranks, seed=self.seed)

    def sizes(self, schedule: Schedule) -> Sizes:
        """Return the bytes of the transfers of *schedule*."""
        if not self.is_sparse:
            return DenseSizes(self.num_bytes, schedule.num_chunks)
        return UnionSizes(
            schedule,
            length=self.num_elements,
            entries=self.num_entries,
            coding=_CODING,
            union_exponent=self.union_exponent,
        )

    def lower_bound_s(self, schedule: Schedule) -> float:
        """Return what no schedule with the same goal can beat."""
        cost, union_bytes = count_cost(schedule), self._union_bytes()
        network = self.cluster.network
        if self.cluster.fabric is not None:
            port, alpha_s = float(network.bandwidth_bytes_per_s[0]), 2 * float(network.latency_s[0])
            own, merged = union_bytes(np.array([1, len(schedule.contributors) - 1])).tolist()
            sparse = merged if self.is_sparse else None
            return goal_bound_s(schedule, cost, own, port, alpha_s, sparse)
        return network_bound_s(
            schedule,
            cost,
            union_bytes,
            network,
            self.cluster.placement,
            is_dense=not self.is_sparse,
            changes=self.cluster.changes,
        )

    def _union_bytes(self) -> Growth:
        """Return the bytes that what some contributors give together takes at least."""
        if not self.is_sparse:
            return lambda contributors: np.where(contributors > 0, self.num_bytes, 0.0)
        length, entries = self.num_elements, self.num_entries
        growth = growth_of(length, entries, self.union_exponent)
        return lambda contributors: _CODING.least_bytes(length, growth(contributors))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run took.

    Attributes:
        case: What was run.
        goal: What the schedule promises.
        result: Of the simulation.
        lower_bound_s: What no schedule with this goal can beat.
    """

    case: Case
    goal: Goal
    result: ScheduleRun
    lower_bound_s: float

    @property
    def bytes_per_rank(self) -> float:
        """Bytes sent by the busiest rank."""
        return float(self.result.bytes_sent.max())

    @property
    def algbw_bytes_per_s(self) -> float:
        """Bytes of the dense buffer over time; 0 if it took none."""
        return self.case.num_bytes / self.result.time_s if self.result.time_s else 0.0

    @property
    def busbw_bytes_per_s(self) -> float:
        """What compares with a port's bandwidth; 0 if the run took no time.

        For an all-reduce as in nccl-tests, of dense bytes; else what the busiest rank sends.
        """
        if not self.result.time_s:
            return 0.0
        if self.goal == "all-reduce":
            return self.result.busbw_bytes_per_s(self.case.num_bytes)
        return self.bytes_per_rank / self.result.time_s

    def for_json(self) -> dict[str, object]:
        """Return it as one object."""
        return {
            "time_s": self.result.time_s,
            "messages": self.result.messages,
            "bytes_per_rank": self.bytes_per_rank,
            "busbw_bytes_per_s": self.busbw_bytes_per_s,
            "lower_bound_s": self.lower_bound_s,
            "bound_by": self.result.bounds.bound_by,
            "wall_s": self.result.wall_s,
        }


def run_case(case: Case, goal_file: Path | None, *, as_json: bool) -> None:
    """Simulate one topology once and print it.

    Args:
        case: What to run on which network.
        goal_file: Where the schedule goes as GOAL text, or None.
        as_json: Print one JSON object instead of a table.

    Raises:
        ValueError: if the topology cannot run with so many ranks.
    """
    schedule = case.schedule()
    if goal_file is not None:
        text = io.StringIO()
        write_goal(schedule, case.sizes(schedule), text)  # all of it, before a file is touched
        write_whole(goal_file, text.getvalue())
    result = simulate_schedule(schedule, case.cluster, case.sizes(schedule))
    outcome = Outcome(case, schedule.goal, result, case.lower_bound_s(schedule))
    if as_json:
        print_json(outcome.for_json(), indent=2)
        return
    _print_table(outcome)
    if goal_file is not None:
        console.print(f"GOAL: {goal_file}", soft_wrap=True)


def _print_table(outcome: Outcome) -> None:
    case, result, bounds = outcome.case, outcome.result, outcome.result.bounds
    density = f" at density {case.density:g}" if case.is_sparse else ""
    text = (
        f", {case.cluster.num_ranks} ranks, {bytes_text(case.num_bytes)}{density}, "
        f"on {printable(_network_text(case))}"
    )
    console.print(Text(printable(case.topology.label), "bold") + Text(text), soft_wrap=True)
    table = Table("what", "value", "note")
    table.columns[1].justify = "right"
    for row in (
        ("time", seconds_text(result.time_s), f"bound by {bounds.bound_by}"),
        ("lower bound", seconds_text(outcome.lower_bound_s), f"of any schedule: {outcome.goal}"),
        ("busiest link", seconds_text(bounds.link_s), bounds.link),
        ("busiest CPU", seconds_text(bounds.cpu_s), bounds.cpu),
        ("latency", seconds_text(bounds.latency_s), "longest chain of messages"),
        ("messages", f"{result.messages:,}", "of all ranks"),
        ("bytes per rank", bytes_text(outcome.bytes_per_rank), "sent by the busiest"),
        ("algbw", _rate_text(outcome.algbw_bytes_per_s), "dense bytes over time"),
        ("busbw", _rate_text(outcome.busbw_bytes_per_s), "compares with a port's bandwidth"),
        ("wall", seconds_text(result.wall_s), f"to simulate {result.instants:,} instants"),
    ):
        table.add_row(*row)
    console.print(table)


def _network_text(case: Case) -> str:
    network = case.cluster.network
    if case.cluster.fabric is None:
        return f"{case.cluster.name}: {network.num_hosts} hosts, {network.num_links} links"
    rate = _rate_text(float(network.bandwidth_bytes_per_s[0]))
    alpha = seconds_text(2 * float(network.latency_s[0]))
    return f"{case.cluster.name}: {rate} each way, {alpha} host to host"


def _rate_text(bytes_per_s: float) -> str:
    return f"{bytes_text(bytes_per_s)}/s"
