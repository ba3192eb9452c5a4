"""Hierarchical all-reduce: reduce inside each group, all-reduce between leaders, broadcast inside.

A group is a run of consecutive ranks, such as the GPUs of one host: the fast links inside carry
whole buffers and only the leaders use the slow network.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from dgc_topo.arrays import IntArray
from dgc_topo.schedule import Schedule, Step, copy, place, reduce, then
from dgc_topo.topology import load_topology


def schedule(
    world_size: int,
    group_size: int = 2,
    leaders: str = "ring",
    inside: Literal["tree", "star"] = "tree",
) -> Schedule:
    """Return groups of *group_size* consecutive ranks joined by their first ranks.

    Args:
        world_size: Any number of ranks; the last group may be smaller.
        group_size: Ranks per group, at least 1.
        leaders: Name of the flat topology between the groups' first ranks.
        inside: How a group reduces and broadcasts: a binomial tree, or all to the leader at once.
    """
    if group_size < 1:
        raise ValueError(f"group_size={group_size}, expected at least 1")
    group_size = min(group_size, world_size)  # nobody is in the rest of a larger one
    first_ranks = np.arange(0, world_size, group_size)
    between = load_topology(leaders).schedule(len(first_ranks))
    if between.goal != "all-reduce" or between.servers:
        raise ValueError(f"leaders={leaders}: expected a topology that all-reduces all its ranks")
    levels = _tree_levels(group_size) if inside == "tree" else [_star_level(group_size)]
    return then(
        _inside(world_size, group_size, levels, up=True),
        place(between, first_ranks, world_size),
        _inside(world_size, group_size, levels[::-1], up=False),
        goal="all-reduce",
    )


Level = dict[int, int]  # place in the group -> its parent's place


def _tree_levels(group_size: int) -> list[Level]:
    distances = [1 << level for level in range((group_size - 1).bit_length())]
    return [{i: i - d for i in range(d, group_size, 2 * d)} for d in distances]


def _star_level(group_size: int) -> Level:
    return dict.fromkeys(range(1, group_size), 0)


def _inside(world_size: int, group_size: int, levels: list[Level], *, up: bool) -> Schedule:
    def steps_of(ranks: IntArray) -> Iterator[Step]:
        groups = np.unique(ranks // group_size) * group_size
        for level in levels:
            children = np.add.outer(groups, np.array(list(level), np.int64)).ravel()
            parents = np.add.outer(groups, np.array(list(level.values()), np.int64)).ravel()
            here = children < world_size
            children, parents = children[here], parents[here]
            yield reduce(children, parents) if up else copy(parents, children)

    return Schedule(world_size, 1, steps_of, "part")
