"""Prove by exact weights what a schedule computes.

Every rank starts with its own input; following the schedule symbolically gives, for each rank and
chunk, the exact multiple of every rank's input that it ends up holding.  All ones is an
all-reduce; for gossip the weights are a mixing matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import networkx as nx
import numpy as np
import numpy.typing as npt

from dgc_topo.cost import Cost, count_cost, step_lower_bound
from dgc_topo.schedule import Goal, IntArray, Schedule, ScheduleError, Step
from dgc_topo.schedule.text import format_grid
from dgc_topo.topology import Topology

#: Exact numerators, shape (world_size, chunks in the batch, world_size).
Weights = npt.NDArray[np.int64] | npt.NDArray[np.object_]

_BATCH_ENTRIES = 1 << 24  # numbers held at once; larger schedules are followed chunk by chunk
_INT64_SAFE = 1 << 62


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
    if goal == "all-reduce":
        check_all_reduce(schedule)
        n = len(schedule.contributors)
        claim = f"all-reduce: every rank ends with each of {n} contributions exactly once"
        return Verification(goal, claim, cost, step_lower_bound(cost), all_reduce_bound(world_size))
    if goal == "part":
        raise ScheduleError(f"{topology.label}: is a building block, it promises nothing to prove")
    iterations, gap = check_gossip(topology, world_size, seed=seed)
    over = f"over {iterations} iterations" if topology.varies else "in every iteration"
    claim = f"{goal} mixing, connected {over}, spectral gap {gap:.4g}"
    least = 0 if world_size == 1 else 1
    return Verification(goal, claim, cost, least, float(least))


def all_reduce_bound(world_size: int) -> float:
    """Return the fewest buffers that the busiest rank sends in any all-reduce: 2(n-1)/n."""
    return 2 * (world_size - 1) / world_size


def contributions(schedule: Schedule) -> tuple[Weights, int]:
    """Return how much of each rank's input every chunk ends up holding.

    Returns:
        Numerators of shape (world_size, num_chunks, world_size) - entry ``[r, c, i]`` belongs to
        rank i's chunk c inside rank r's chunk c - and their common denominator.
    """
    state, denominator = _initial(schedule, schedule.num_chunks), 1
    for step in schedule.steps():
        state, denominator = _apply(state, denominator, step)
    return state, denominator


def check_all_reduce(schedule: Schedule) -> None:
    """Prove that every rank ends with every contributor's input exactly once.

    Raises:
        ScheduleError: naming the rank, chunk and step, with the grid that marks the place.
    """
    n = schedule.world_size
    expected = np.zeros(n, np.int64)
    expected[schedule.contributors] = 1
    for first, state, denominator in _in_batches(schedule):
        wrong = (state != expected * denominator).any(axis=2)
        if wrong.any():
            rank, chunk = (int(i) for i in np.argwhere(wrong)[0])
            row = [w / denominator for w in state[rank, chunk].tolist()]
            raise ScheduleError(_explain(schedule, rank, first + chunk, row))


def check_gossip(topology: Topology, world_size: int, *, seed: int = 0) -> tuple[int, float]:
    """Prove that the mixing is stochastic as promised and, over some iterations, connected.

    Returns:
        Number of iterations until everyone has reached everyone, and the spectral gap: 1 minus the
        factor by which an iteration shrinks the distance from consensus (geometric mean).

    Raises:
        ScheduleError: naming the iteration and the rank whose weights are wrong, or the ranks that
            never hear of each other.
    """
    limit = 8 * world_size.bit_length() + 8 if topology.varies else 1
    reached = nx.empty_graph(world_size, create_using=nx.DiGraph)
    product = np.eye(world_size)
    connected_after = 0
    for iteration in range(limit):
        schedule = topology.schedule(world_size, iteration=iteration, seed=seed)
        matrix = mixing_matrix(schedule, where=f"{topology.label}, iteration {iteration}")
        product = matrix @ product
        reached.add_edges_from((int(j), int(i)) for i, j in np.argwhere(matrix != 0))
        if not connected_after and nx.is_strongly_connected(reached):
            connected_after = iteration + 1
    if connected_after:
        return connected_after, _spectral_gap(product, limit)
    parts = sorted(nx.strongly_connected_components(reached), key=len)
    raise ScheduleError(
        f"{topology.label}: not connected over {limit} iterations: ranks {sorted(parts[0])[:8]} "
        "do not both reach and hear everyone else; expected one strongly connected graph"
    )


def mixing_matrix(schedule: Schedule, *, where: str = "schedule") -> npt.NDArray[np.float64]:
    """Return W, where ``W[i, j]`` is the weight of rank j's value in rank i's, after checking it.

    Raises:
        ScheduleError: if chunks mix differently, or a row (rank) or column that is promised to sum
            to 1 does not, or a weight is negative.
    """
    weights, denominator = contributions(schedule)
    if (weights != weights[:, :1]).any():
        rank, chunk, _ = (int(i) for i in np.argwhere(weights != weights[:, :1])[0])
        raise ScheduleError(f"{where}: rank {rank} mixes chunk {chunk} differently from chunk 0")
    matrix = weights[:, 0]
    sums = {"column": matrix.sum(axis=0)}
    if schedule.goal == "doubly-stochastic":
        sums["row"] = matrix.sum(axis=1)
    for kind, values in sums.items():
        if (values != denominator).any():
            rank = int(np.argmax(values != denominator))
            what = "what rank {} receives" if kind == "row" else "what is given of rank {}"
            raise ScheduleError(
                f"{where}: weights of {what.format(rank)} sum to {values[rank]}/{denominator}, "
                f"expected 1 ({schedule.goal})\n{format_grid(schedule, mark=(0, rank))}"
            )
    if (matrix < 0).any():
        i, j = (int(k) for k in np.argwhere(matrix < 0)[0])
        raise ScheduleError(f"{where}: rank {i} takes a negative share of rank {j}")
    return matrix.astype(np.float64) / denominator


def _spectral_gap(product: npt.NDArray[np.float64], iterations: int) -> float:
    n = len(product)
    second = float(np.linalg.norm(product - np.full((n, n), 1 / n), 2))
    return 1.0 - float(second ** (1 / iterations))


def _in_batches(schedule: Schedule) -> Iterator[tuple[int, Weights, int]]:
    """Yield (first chunk, final weights, denominator) for runs of chunks that fit in memory."""
    per_batch = max(1, _BATCH_ENTRIES // schedule.world_size**2)
    for first in range(0, schedule.num_chunks, per_batch):
        count = min(per_batch, schedule.num_chunks - first)
        state, denominator = _initial(schedule, count), 1
        for step in schedule.steps():
            state, denominator = _apply(state, denominator, _window(step, first, count))
        yield first, state, denominator


def _initial(schedule: Schedule, num_chunks: int) -> Weights:
    n = schedule.world_size
    state = np.zeros((n, num_chunks, n), np.int64)
    own = schedule.contributors
    state[own, :, own] = 1
    return state


def _window(step: Step, first: int, count: int) -> Step:
    """Return the step cut to the chunks from *first*, renumbered from 0."""
    start = np.maximum(step.chunk, first)
    end = np.minimum(step.chunk + step.count, first + count)
    inside = end > start
    if inside.all() and first == 0:
        return step
    return Step(
        step.src[inside],
        step.dst[inside],
        start[inside] - first,
        (end - start)[inside],
        step.keep[inside],
        step.weight[inside],
        step.denominator,
    )


def _apply(state: Weights, denominator: int, step: Step) -> tuple[Weights, int]:
    """Return the weights (changed in place) after *step*, arrivals applied in their order."""
    entry, chunk = _expand(step)
    target = step.dst[entry] * state.shape[1] + chunk
    turns = list(_turns(target))
    d = step.denominator
    # Every turn that scales what is already there divides once more; keep 0 and 1 divide nothing.
    scaling = [t for t in turns[1:] if not np.isin(step.keep[entry[t]], (0, d)).all()]
    factor = d ** (1 + len(scaling))
    state = _scaled(state, factor, headroom=len(step) + 1)
    arriving = state[step.src[entry], chunk]  # read before anything is written
    flat = state.reshape(-1, state.shape[2])  # a view: written in place
    for turn in turns:
        which = target[turn]
        keep, weight = step.keep[entry[turn], None], step.weight[entry[turn], None]
        mixed = (flat[which] * keep + arriving[turn] * weight) // d
        if flat.dtype != object and mixed.max(initial=0) >= _INT64_SAFE // 2:
            flat = flat.astype(object)
        flat[which] = mixed
    return flat.reshape(state.shape), denominator * factor


def _scaled(state: Weights, factor: int, headroom: int) -> Weights:
    """Return the weights times *factor*, in Python integers once 64 bits may not do."""
    if factor == 1:
        return state
    largest = max(abs(int(state.max(initial=0))), abs(int(state.min(initial=0))))
    if state.dtype != object and largest * factor * factor * headroom >= _INT64_SAFE:
        state = state.astype(object)
    return state * factor


def _expand(step: Step) -> tuple[IntArray, IntArray]:
    """Return, for each chunk of each transfer, the transfer's position and the chunk."""
    entry = np.repeat(np.arange(len(step)), step.count)
    offset = np.arange(len(entry)) - np.repeat(np.cumsum(step.count) - step.count, step.count)
    return entry, step.chunk[entry] + offset


def _turns(target: IntArray) -> Iterator[IntArray]:
    """Yield positions whose targets are distinct: first arrivals, then second ones, ..."""
    order = np.argsort(target, kind="stable")
    ordered = target[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(order) else order
    turn = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    for number in range(int(turn.max(initial=-1)) + 1):
        yield order[turn == number]


def _explain(schedule: Schedule, rank: int, chunk: int, row: list[float]) -> str:
    """Say what is wrong with what *rank* ends up holding of *chunk*, and where it went wrong."""
    missing = [i for i in schedule.contributors.tolist() if row[i] != 1]
    origin = missing[0] if missing else int(np.flatnonzero(row)[0])
    what, step, at = _origin_of_fault(schedule, rank, chunk, origin, row[origin])
    return (
        f"rank {rank}, chunk {chunk}: ends with {row[origin]:g} times the input of rank {origin}, "
        f"expected {int(origin in schedule.contributors)}; {what}\n"
        f"{format_grid(schedule, mark=(step, at))}"
    )


def _origin_of_fault(
    schedule: Schedule, rank: int, chunk: int, origin: int, final: float
) -> tuple[str, int, int]:
    """Return what happened, in which step and at which rank."""
    state, denominator = _initial(schedule, 1), 1
    last_write = index = -1
    for index, step in enumerate(schedule.steps()):
        seen = _window(step, chunk, 1)
        state, denominator = _apply(state, denominator, seen)
        too_much = state[:, 0, origin] > denominator
        if final > 1 and too_much.any():
            at = int(np.argmax(too_much))
            return f"step {index} counts it more than once at rank {at}", index, at
        if (seen.dst == rank).any():
            last_write = index
    if last_write < 0:
        return "no step sends that chunk to it", max(index, 0), rank
    return f"step {last_write} is the last that sends that chunk to it", last_write, rank
