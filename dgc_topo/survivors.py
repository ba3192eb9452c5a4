"""`without`: gossip among the ranks that are left, for a schedule or for a whole topology."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import overload

from dgc_topo import schedule as schedules
from dgc_topo.schedule import Schedule, ScheduleError, survivors
from dgc_topo.topology import Topology, load_topology


@overload
def without(source: Schedule, lost: Iterable[int]) -> Schedule: ...


@overload
def without(source: str | Path | Topology, lost: Iterable[int], world_size: int) -> Topology: ...


def without(
    source: Schedule | str | Path | Topology, lost: Iterable[int], world_size: int | None = None
) -> Schedule | Topology:
    """Return gossip among the ranks that are left when others are lost.

    What a lost rank would have passed on goes directly from those who gave it to those who took it
    (the stochastic complement, Meyer 1989): the promise of the mixing stays, and ranks that reached
    each other still do.  The result is proved, simulated and run like any other; its rank i is the
    i-th survivor.

    Args:
        source: A schedule that mixes; or a topology, its name or its file.
        lost: Ranks that are gone.
        world_size: For a topology: its number of ranks, the lost ones included.

    Returns:
        A schedule; or a topology, whose world size is the number of survivors.

    Raises:
        ScheduleError: if it does not mix, a lost rank is none of its or nobody is left, chunks mix
            differently, or the weights have no common denominator below 2**62.
        TopologyError: if there is no such topology.
        ValueError: if the world size of a topology is missing, or that of a schedule another.

    Example:
        >>> dt.prove(dt.without("gossip:graph=ring", [2], world_size=5), world_size=4)
        Proof(gossip(graph=ring) without rank 2 of 5 with 4 ranks: doubly-stochastic mixing, ...)
    """
    if isinstance(source, Schedule):
        if world_size not in {None, source.world_size}:
            raise ValueError(f"without: world_size {world_size}, expected {source.world_size}")
        return schedules.without(source, lost)
    if world_size is None:
        raise ValueError("without: no world_size, expected a number of ranks for a topology")
    return _topology_without(load_topology(source), frozenset(lost), world_size)


def _topology_without(whole: Topology, lost: frozenset[int], world_size: int) -> Topology:
    num_left = len(survivors(world_size, lost))
    schedules.without(whole.schedule(world_size), lost)  # refuse now what cannot be

    def of_iteration(world_size_left: int, iteration: int = 0, seed: int = 0) -> Schedule:
        if world_size_left != num_left:
            raise ScheduleError(f"world_size {world_size_left}, expected {num_left}, the survivors")
        return schedules.without(whole.schedule(world_size, iteration=iteration, seed=seed), lost)

    def of_all(world_size_left: int, seed: int = 0) -> Schedule:
        return of_iteration(world_size_left, seed=seed)

    ranks = ("rank " if len(lost) == 1 else "ranks ") + ", ".join(map(str, sorted(lost)))
    name = f"{whole.label} without {ranks} of {world_size}"
    return Topology(name, of_iteration if whole.varies else of_all)
