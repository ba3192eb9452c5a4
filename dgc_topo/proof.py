"""Prove by exact weights what a schedule computes.

Every rank starts with its own input; following the schedule symbolically gives, for each rank and
chunk, the exact multiple of every rank's input that it ends up holding.  All ones is an
all-reduce; for gossip the weights are a mixing matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

import numpy as np

from dgc_topo.mixing import check_gossip, proved_iterations
from dgc_topo.schedule import Goal, Schedule, ScheduleError
from dgc_topo.schedule.cost import Cost, count_cost, step_lower_bound
from dgc_topo.schedule.text import format_grid
from dgc_topo.schedule.views import check_views
from dgc_topo.schedule.weights import follow, states
from dgc_topo.topology import Topology


@dataclass(frozen=True, slots=True)
class Verification:
    """A proof that succeeded, and what the proved schedule costs."""

    goal: Goal
    claim: str  #: what was proved, as a sentence
    cost: Cost  #: of the first iteration
    step_bound: int  #: fewest steps any schedule with this goal needs
    bytes_bound: float  #: fewest buffers the busiest rank must send


def verify(topology: Topology, world_size: int, *, seed: int = 0) -> Verification:
    """Prove that *topology* computes what it promises with *world_size* ranks.

    Raises:
        ScheduleError: naming rank, chunk and step of what is wrong.
        TopologyError: if the topology cannot be built for this world size.
    """
    schedule = topology.schedule(world_size, seed=seed)
    cost, goal = count_cost(schedule), schedule.goal
    if goal == "part":
        raise ScheduleError(f"{topology.label}: is a building block, it promises nothing to prove")
    if goal == "all-reduce":
        claim = _all_reduce_claim(topology, world_size, seed)
        return Verification(goal, claim, cost, step_lower_bound(cost), all_reduce_bound(world_size))
    iterations, gap = check_gossip(topology, world_size, seed=seed)
    over = f"over {iterations} iteration{'s' * (iterations > 1)}"
    if not topology.varies:
        over = "in every iteration"
    claim = f"{goal} mixing, connected {over}, spectral gap {gap:.4g}"
    least = 0 if world_size == 1 else 1
    return Verification(goal, claim, cost, least, float(least))


def _all_reduce_claim(topology: Topology, world_size: int, seed: int) -> str:
    """Prove an all-reduce, of topologies that change in many iterations; return what is proved."""
    proved = 0
    for where, schedule in proved_iterations(topology, world_size, seed=seed):
        try:
            check_views(schedule, iteration=proved)
            check_all_reduce(schedule)
        except ScheduleError as error:
            raise ScheduleError(f"{where}: {error}" if topology.varies else str(error)) from error
        proved += 1
    n = len(schedule.contributors)
    over = f", in each of {proved} iterations" if topology.varies else ""
    return f"all-reduce: every rank ends with each of {n} contributions exactly once{over}"


def all_reduce_bound(world_size: int) -> float:
    """Return the fewest buffers that the busiest rank sends in any all-reduce: 2(n-1)/n."""
    return 2 * (world_size - 1) / world_size


def check_all_reduce(schedule: Schedule) -> None:
    """Prove that every rank ends with every contributor's input exactly once.

    Raises:
        ScheduleError: naming the rank, chunk and step, with the grid that marks the place.
    """
    expected = np.zeros(schedule.world_size, np.int64)
    expected[schedule.contributors] = 1
    for chunks, weights in follow(schedule):
        right = weights.are(expected)
        if not right.all():
            rank, place = np.argwhere(~right)[0].tolist()
            row = weights.of(rank, place)
            raise ScheduleError(_explain(schedule, rank, int(chunks[place]), row))


def _explain(schedule: Schedule, rank: int, chunk: int, row: list[Fraction]) -> str:
    """Say what is wrong with what *rank* ends up holding of *chunk*, and where it went wrong."""
    expected = np.isin(np.arange(len(row)), schedule.contributors).tolist()
    origin = next(i for i, share in enumerate(row) if share != expected[i])
    what, step, at = _origin_of_fault(schedule, rank, chunk, origin, row[origin])
    return (
        f"rank {rank}, chunk {chunk}: ends with {_text(row[origin])} times the input of rank "
        f"{origin}, expected {int(expected[origin])}; {what}\n"
        f"{format_grid(schedule, mark=(step, at))}"
    )


def _origin_of_fault(
    schedule: Schedule, rank: int, chunk: int, origin: int, final: Fraction
) -> tuple[str, int, int]:
    """Return what happened, in which step and at which rank."""
    last_write = index = -1
    for index, (step, weights) in enumerate(states(schedule, chunk)):
        too_much = weights.numerators[:, 0, origin] > weights.denominator
        if final > 1 and too_much.any():
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
