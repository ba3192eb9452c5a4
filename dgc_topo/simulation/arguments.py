"""Arguments that simulations have in common, as the values that they mean."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast, get_args

from dgc_topo.network.cluster import Cluster, NoSizeError, Source, load_cluster
from dgc_topo.scalars import plain_float, plain_int
from dgc_topo.schedule import Schedule
from dgc_topo.schedule.completion import Merge
from dgc_topo.sizes import is_sparse
from dgc_topo.topology import Topology, load_topology
from dgc_topo.units import bytes_from, fraction_from


def number_of_ranks(
    topology: Topology | Schedule | str | Path, cluster: Source, world_size: int | None
) -> int:
    """Return the number of ranks that the arguments say, each by itself or all alike.

    Raises:
        ValueError: if none says it, or two say different ones.
    """
    said = {
        "world_size": None if world_size is None else plain_int("world_size", world_size),
        "the schedule": topology.world_size if isinstance(topology, Schedule) else None,
        "the cluster": cluster.num_ranks if isinstance(cluster, Cluster) else None,
    }
    known = {name: ranks for name, ranks in said.items() if ranks is not None}
    if len(set(known.values())) > 1:
        listed = ", ".join(f"{name} has {ranks} ranks" for name, ranks in known.items())
        raise ValueError(f"world_size: {listed}; expected the same in all")
    if known:
        return next(iter(known.values()))
    try:
        return load_cluster(cluster).num_ranks
    except NoSizeError as error:
        raise ValueError("world_size: missing, expected a number of ranks") from error


def as_topology(topology: Topology | Schedule | str | Path) -> Topology | Schedule:
    """Return the topology that a text or a path means; others as they are."""
    return topology if isinstance(topology, Schedule) else load_topology(topology)


def schedule_of(
    topology: Topology | Schedule, world_size: int, iteration: int, seed: int
) -> Schedule:
    """Return a topology's schedule; a schedule as it is."""
    if isinstance(topology, Schedule):
        return topology
    return topology.schedule(world_size, iteration=iteration, seed=seed)


def topology_text(topology: Topology | Schedule) -> str:
    """Return what reports call a topology, or a schedule of nobody's name."""
    return f"a schedule ({topology.goal})" if isinstance(topology, Schedule) else str(topology)


def as_fraction(value: float | str) -> float:
    """Return a density that may be given as a text such as ``0.1%``."""
    if isinstance(value, str):
        return fraction_from(value, "density")
    return plain_float("density", value)


def as_bytes(value: float | str, name: str) -> float:
    """Return a size that may be given as a text such as ``25MiB``; *name* is for errors."""
    return bytes_from(value, name) if isinstance(value, str) else plain_float(name, value)


def check_density(density: float) -> None:
    """Refuse what is no fraction to send.

    Raises:
        ValueError: unless *density* is above 0 and at most 1.
    """
    if not 0 < density <= 1:
        raise ValueError(f"density {density}: expected above 0, at most 1")


def factors_of(slow_ranks: Mapping[int, float] | None, world_size: int) -> dict[int, float]:
    """Return the factors of ranks that the world has.

    Raises:
        ValueError: if there is no such rank, or what is given is no mapping of ranks to numbers.
    """
    given, factors = slow_ranks or {}, {}
    if not isinstance(given, Mapping):
        raise ValueError(f"slow_ranks {given!r}: expected a factor of each slow rank")  # noqa: TRY004
    for rank, factor in given.items():
        plain = plain_int("slow_ranks: rank", rank, least=0)
        if plain >= world_size:
            raise ValueError(f"slow_ranks: rank {plain}, expected 0 to {world_size - 1}")
        factors[plain] = plain_float(f"slow_ranks: factor of rank {plain}", factor)
    return factors


def as_merge(merge: str) -> Merge:
    """Return the policy of sparse sums with this name.

    Raises:
        ValueError: that lists the names, if there is none.
    """
    if merge not in get_args(Merge):
        raise ValueError(f"merge {merge!r}: expected one of {', '.join(get_args(Merge))}")
    return cast(Merge, merge)


def check_balance(merge: Merge, density: float, *, balance: bool) -> None:
    """Refuse balance where no exact sparse sum is cut.

    Raises:
        ValueError: unless there is one.
    """
    if balance and (not is_sparse(density) or merge != "union"):
        raise ValueError("balance: is for exact sparse sums, expected density below 1")


def check_density_of(merge: Merge) -> None:
    """Refuse a policy of sparse sums where nothing is sparse.

    Raises:
        ValueError: unless it is ``union``.
    """
    if merge != "union":
        raise ValueError(f"merge {merge!r}: is for sparse sums, expected density below 1")
