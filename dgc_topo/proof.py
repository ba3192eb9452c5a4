"""Proofs by exact weights of what a schedule computes.

Every rank starts with its own input.  Following the schedule symbolically gives, for each rank and
chunk, the exact multiple of every rank's input that it ends up holding.  If all multiples are one,
the schedule is an all-reduce; for gossip they are a mixing matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from html import escape
from pathlib import Path

import numpy as np

from dgc_topo.arrays import IntArray
from dgc_topo.mixing import Matrix, check_gossip, proved_iterations
from dgc_topo.schedule import Goal, Schedule, ScheduleError
from dgc_topo.schedule.cost import Cost, count_cost, step_lower_bound
from dgc_topo.schedule.survivors import rows_of
from dgc_topo.schedule.views import check_views
from dgc_topo.schedule.weighting import factors_of
from dgc_topo.schedule.weights import follow, states
from dgc_topo.text import html_table
from dgc_topo.topology import Topology, load_topology

_MOST_WEIGHTS = 16  #: ranks of which a mixing matrix is shown


@dataclass(frozen=True, slots=True, eq=False)
class Proof:
    """A proof that succeeded, and what the proved schedule costs.

    Attributes:
        label: The topology, with its options; or ``schedule``.
        world_size: Number of ranks.
        goal: Promise of the schedule.
        claim: The proved property, as a sentence.
        cost: Cost of one run, in the first iteration.
        step_bound: Fewest steps that any schedule with this goal needs.
        bytes_bound: Fewest buffers that the busiest rank must send.
        mixing: Of gossip, the first iteration's mixing matrix: ``[i, j]`` is the weight that rank i
            gives rank j's value.
        spectral_gap: Of gossip, 1 minus the factor by which an iteration brings ranks nearer.
    """

    label: str
    world_size: int
    goal: Goal
    claim: str
    cost: Cost
    step_bound: int
    bytes_bound: float
    mixing: Matrix | None = None
    spectral_gap: float | None = None

    def __repr__(self) -> str:
        return f"Proof({self.label} with {self.world_size} ranks: {self.claim})"

    def costs(self) -> list[tuple[str, str, str, str]]:
        """Return rows of the cost of one run: name, this schedule, lower bound, which bound."""
        cost = self.cost
        per_step = f"with {cost.most_per_step} message(s) per rank and step"
        bound = "2(n-1)/n" if self.goal == "all-reduce" else "one neighbour"
        sent, least = f"{cost.buffers_sent:.4g} x buffer", f"{self.bytes_bound:.4g} x buffer"
        received = f"{cost.buffers_received:.4g} x buffer"
        return [
            ("steps", str(cost.num_steps), str(self.step_bound), per_step),
            ("bytes sent by the busiest rank", sent, least, bound),
            ("bytes received by the busiest rank", received, "", ""),
            ("messages of all ranks", str(cost.num_messages), "", ""),
        ]

    def weights(self) -> list[list[str]]:
        """Return the mixing matrix as text, a row per rank; nothing if it is large or missing."""
        if self.mixing is None or self.world_size > _MOST_WEIGHTS:
            return []
        return [[f"{weight:.4g}" if weight else "." for weight in row] for row in self.mixing]

    def _repr_html_(self) -> str:
        head = ("cost of one run", "this schedule", "lower bound", "bound")
        text = f"<p>{escape(self.label)} with {self.world_size} ranks: {escape(self.claim)}</p>"
        text += html_table(head, self.costs())
        if weights := self.weights():
            names = [f"rank {rank}" for rank in range(self.world_size)]
            rows = [[name, *row] for name, row in zip(names, weights, strict=True)]
            text += f"<p>weights</p>{html_table(['', *names], rows)}"
        return text


def prove(
    topology: Topology | Schedule | str | Path,
    world_size: int | None = None,
    *,
    seed: int = 0,
    weights: Sequence[int] | None = None,
) -> Proof:
    """Prove that a topology, or a schedule, computes what it promises.

    Args:
        topology: A topology, its name or its file; or one schedule.
        world_size: Number of ranks; a schedule has its own.
        seed: For topologies that draw at random.
        weights: Weights of the contributions to one schedule, see `weighted`; one each by default.

    Raises:
        ScheduleError: naming rank, chunk and step of what is wrong, or weights that do not fit.
        TopologyError: if the topology cannot be built for this world size.
        ValueError: if there is no world size, or another one than the schedule's.

    Example:
        >>> dt.prove("ring", 4)
        Proof(ring with 4 ranks: all-reduce: every rank ends with each of 4 contributions ...)
    """
    if isinstance(topology, Schedule):
        given = topology
        if world_size not in {None, given.world_size}:
            raise ValueError(f"prove: world_size {world_size}, expected {given.world_size}")
        topology = Topology("schedule", lambda world_size: given)
        return _proof(topology, given.world_size, 0, weights)
    if weights is not None:
        raise ValueError("prove: weights of a topology, expected a schedule, see weighted")
    if world_size is None:
        raise ValueError("prove: no world_size, expected a number of ranks for a topology")
    return _proof(load_topology(topology), world_size, seed)


def _proof(
    topology: Topology, world_size: int, seed: int, weights: Sequence[int] | None = None
) -> Proof:
    schedule = topology.schedule(world_size, seed=seed)
    cost, goal, label = count_cost(schedule), schedule.goal, topology.label
    if goal == "part":
        raise ScheduleError(f"{label}: is a building block, it promises nothing to prove")
    if goal == "all-reduce":
        claim = _all_reduce_claim(topology, world_size, seed, weights)
        bounds = step_lower_bound(cost), all_reduce_bound(world_size)
        return Proof(label, world_size, goal, claim, cost, *bounds)
    if weights is not None:
        claim = check_weighted_gossip(schedule, weights)
        bounds = (0, 0.0) if world_size == 1 else (1, 1.0)
        return Proof(label, world_size, goal, claim, cost, *bounds)
    mixing = check_gossip(topology, world_size, seed=seed)
    over = f"over {mixing.iterations} iteration{'s' * (mixing.iterations > 1)}"
    if not topology.varies:
        over = "in every iteration"
    claim = f"{goal} mixing, connected {over}, spectral gap {mixing.spectral_gap:.4g}"
    bounds = (0, 0.0) if world_size == 1 else (1, 1.0)
    return Proof(label, world_size, goal, claim, cost, *bounds, mixing.matrix, mixing.spectral_gap)


def _all_reduce_claim(
    topology: Topology, world_size: int, seed: int, weights: Sequence[int] | None
) -> str:
    """Prove an all-reduce (in many iterations if the topology changes); return the proved claim."""
    proved = 0
    for where, schedule in proved_iterations(topology, world_size, seed=seed):
        try:
            check_views(schedule, iteration=proved)
            check_all_reduce(schedule, weights)
        except ScheduleError as error:
            raise ScheduleError(f"{where}: {error}" if topology.varies else str(error)) from error
        proved += 1
    n = len(schedule.contributors)
    over = f", in each of {proved} iterations" if topology.varies else ""
    times = "exactly once" if weights is None else f"weighted {', '.join(map(str, weights))}"
    return f"all-reduce: every rank ends with each of {n} contributions {times}{over}"


def all_reduce_bound(world_size: int) -> float:
    """Return the fewest buffers that the busiest rank sends in any all-reduce: 2(n-1)/n."""
    return 2 * (world_size - 1) / world_size


def check_all_reduce(schedule: Schedule, weights: Sequence[int] | None = None) -> None:
    """Prove that every rank ends with every contributor's input, exactly once or as weighted.

    Args:
        schedule: The schedule.
        weights: Weight of each contribution, in lowest terms; one each by default.

    Raises:
        ScheduleError: naming the rank, chunk and step, with the grid that marks the place.
    """
    own = schedule.contributors
    expected = np.zeros(schedule.world_size, np.int64)
    expected[own] = factors_of(schedule, [1] * len(own) if weights is None else weights)[own]
    for chunks, found in follow(schedule):
        right = found.are(expected)
        if not right.all():
            rank, place = np.argwhere(~right)[0].tolist()
            row = found.of(rank, place)
            raise ScheduleError(_explain(schedule, rank, int(chunks[place]), row, expected))


def check_weighted_gossip(schedule: Schedule, weights: Sequence[int]) -> str:
    """Prove that gossip leaves a weighted mean where it is; return the proved claim.

    Every rank ends with a mean (its row of the weights sums to 1), and the weighted sum over all
    ranks of what they end with is that of what they began with.

    Args:
        schedule: The schedule, see `weighted`.
        weights: Whole numbers from 1, one per rank.

    Raises:
        ScheduleError: naming the rank whose shares are wrong.
    """
    factors = factors_of(schedule, weights)
    for rank, row in (rows := rows_of(schedule, "weighted gossip")).items():
        if sum(row.values()) != 1 or min(row.values()) < 0:
            raise ScheduleError(
                f"rank {rank}: ends with shares that sum to {sum(row.values())}, expected shares "
                "from 0 that sum to 1"
            )
    for rank in rows:
        counts = sum(int(factors[other]) * row.get(rank, 0) for other, row in rows.items())
        if counts != int(factors[rank]):
            raise ScheduleError(
                f"rank {rank}: counts {counts} times in the weighted sum of all, expected "
                f"{factors[rank]}"
            )
    listed = ", ".join(map(str, factors.tolist()))
    return f"{schedule.goal} mixing weighted {listed}: the weighted mean of all ranks stays"


def _explain(
    schedule: Schedule, rank: int, chunk: int, row: list[Fraction], expected: IntArray
) -> str:
    """Return a text: the fault in *rank*'s result for *chunk*, and the step that caused it."""
    origin = next(i for i, share in enumerate(row) if share != int(expected[i]))
    wanted = int(expected[origin])
    what, step, at = _origin_of_fault(schedule, rank, chunk, origin, row[origin], wanted)
    mixes = any(share.denominator > 1 for share in row)
    hint = " (for gossip, give Schedule goal='doubly-stochastic')" if mixes else ""
    return (
        f"rank {rank}, chunk {chunk}: ends with {_text(row[origin])} times the input of rank "
        f"{origin}, expected {wanted}; {what}{hint}\n"
        f"{schedule.grid(mark=(step, at))}"
    )


def _origin_of_fault(
    schedule: Schedule, rank: int, chunk: int, origin: int, final: Fraction, wanted: int
) -> tuple[str, int, int]:
    """Return the fault as text, its step and its rank."""
    last_write = index = -1
    for index, (step, weights) in enumerate(states(schedule, chunk)):
        too_much = weights.numerators[:, 0, origin] > max(wanted, 1) * weights.denominator
        if final > max(wanted, 1) and too_much.any():
            at = int(np.argmax(too_much))
            return f"step {index} counts it more than once at rank {at}", index, at
        if (step.dst == rank).any():
            last_write = index
    if last_write < 0:
        return f"no step sends that chunk to it, of {index + 1} steps", max(index, 0), rank
    return f"step {last_write} is the last that sends that chunk to it", last_write, rank


def _text(share: Fraction) -> str:
    """Return a share as a short number, however large it is."""
    return f"{Decimal(share.numerator) / Decimal(share.denominator):.6g}"
