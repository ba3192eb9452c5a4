"""Gossip averaging: each rank moves towards the average of its neighbours.

One step per iteration with Metropolis-Hastings weights, so the mixing is doubly stochastic and the
ranks' average never changes.  (Xiao & Boyd 2004; D-PSGD: Lian et al., NeurIPS 2017; exponential
graphs: Assran et al., ICML 2019, Ying et al., NeurIPS 2021.)

In a random push nobody waits for an answer, and some ranks hear more than others.  The shares that
a rank gives away add up, those that it hears do not: they need push-sum's weights (Kempe, Dobra,
Gehrke, FOCS 2003).
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Literal, TypeAlias

import networkx as nx
import numpy as np

from dgc_topo.arrays import IntArray
from dgc_topo.schedule import Goal, Schedule, Step, mixing

Directed: TypeAlias = "nx.DiGraph[int]"
Graph = Literal[
    "ring",
    "torus",
    "complete",
    "exponential",
    "one-peer-exponential",
    "random-matching",
    "random-push",
]


def schedule(world_size: int, graph: Graph = "ring", iteration: int = 0, seed: int = 0) -> Schedule:
    """Return one round of averaging over *graph*, one chunk.

    Args:
        world_size: Any number of ranks from 1.
        graph: Pairs of ranks that exchange. ``torus`` is as square as the world size allows;
            ``exponential`` sends to the ranks 1, 2, 4, ... above; ``one-peer-exponential`` takes
            those in turn, one an iteration; ``random-matching`` draws new pairs each iteration; in
            a ``random-push`` each rank gives half of its value away, to the next rank and to one
            that is drawn each iteration, and nobody answers.
        iteration: Number of the training step.
        seed: Seed of random pairs.
    """
    if graph == "random-matching":
        return _round(world_size, _averaging(_matching(world_size, iteration, seed)))
    if graph == "random-push":
        push = _push(world_size, iteration, seed) if world_size > 1 else _fixed_step("ring", 1)
        return _round(world_size, push, "column-stochastic")
    turns = max((world_size - 1).bit_length(), 1) if graph == "one-peer-exponential" else 1
    return _recurring(graph, world_size, iteration % turns)


@lru_cache(maxsize=64)
def _recurring(graph: str, world_size: int, turn: int) -> Schedule:
    """Return a schedule that comes again: one object, whose programs are compiled once."""
    if graph == "one-peer-exponential":
        return _round(world_size, _averaging(_circulant(world_size, 1 << turn)))
    return _round(world_size, _fixed_step(graph, world_size))


def _round(world_size: int, step: Step, goal: Goal = "doubly-stochastic") -> Schedule:

    def steps_of(ranks: IntArray) -> Iterator[Step]:
        if world_size > 1:
            yield step.select(np.isin(step.src, ranks) | np.isin(step.dst, ranks))

    return Schedule(world_size, 1, steps_of, goal=goal)


@lru_cache(maxsize=32)
def _fixed_step(graph: str, n: int) -> Step:
    if graph == "exponential":
        return _averaging(_circulant(n, *(1 << level for level in range((n - 1).bit_length()))))
    if graph == "torus":
        rows = max(d for d in range(1, int(n**0.5) + 1) if n % d == 0)
        grid = nx.grid_2d_graph(rows, n // rows, periodic=True)
        undirected = nx.relabel_nodes(grid, {(i, j): i * (n // rows) + j for i, j in grid})
    else:
        undirected = nx.complete_graph(n) if graph == "complete" else nx.cycle_graph(n)
    undirected.remove_edges_from(list(nx.selfloop_edges(undirected)))
    return _averaging(undirected.to_directed())


def _circulant(n: int, *hops: int) -> Directed:
    graph: Directed = nx.empty_graph(n, create_using=nx.DiGraph)
    graph.add_edges_from((i, (i + hop) % n) for hop in hops for i in range(n) if hop % n)
    return graph


def _matching(n: int, iteration: int, seed: int) -> Directed:
    """Return a uniformly random perfect matching; one rank rests if *n* is odd."""
    order = np.random.default_rng((seed, iteration)).permutation(n)
    graph = nx.empty_graph(n)
    graph.add_edges_from(zip(order[0 : n - 1 : 2].tolist(), order[1::2].tolist(), strict=True))
    directed: Directed = graph.to_directed()
    return directed


def _push(n: int, iteration: int, seed: int) -> Step:
    """Return the step in which each rank gives a quarter to the next, and one to a random rank."""
    ranks = np.arange(n)
    others = np.random.default_rng((seed, iteration)).integers(min(2, n - 1), max(n, 2), n)
    target = np.concatenate([ranks + 1, ranks + others]) % n
    edges, quarters = np.unique(target * n + np.tile(ranks, 2), return_counts=True)
    halves = np.full(n, 2)
    return mixing(edges % n, edges // n, quarters, halves, denominator=4, count=1)


def _averaging(graph: Directed) -> Step:
    """Return the step that mixes along *graph* with Metropolis-Hastings weights.

    W[i, j] = 1 / (1 + max(degree i, degree j)) along an edge and the rest on the diagonal.  On the
    directed graphs here all in- and out-degrees are equal, so the same rule is doubly stochastic.
    """
    edges = np.array(sorted(graph.edges, key=lambda edge: edge[::-1]), np.int64).reshape(-1, 2)
    src, dst = edges[:, 0], edges[:, 1]
    n = graph.number_of_nodes()
    degree = np.bincount(dst, minlength=n)
    shares = 1 + np.maximum(degree[src], degree[dst])
    denominator = int(np.lcm.reduce(shares)) if len(shares) else 1
    weight = denominator // shares
    own = denominator - np.bincount(dst, weights=weight, minlength=n).astype(np.int64)
    return mixing(src, dst, weight, own, denominator=denominator, count=1)
