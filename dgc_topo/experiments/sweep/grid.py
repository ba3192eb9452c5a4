"""The grid of a sweep: all combinations of its axes, and those that cannot be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from math import prod
from typing import Any, NamedTuple

from dgc_topo.averaging import Averaging
from dgc_topo.experiments.scenario.sweep import SweepSection
from dgc_topo.experiments.sweep.networks import BaseNetwork, NetworkNumbers
from dgc_topo.simulation.workload import Workload
from dgc_topo.sizes import is_sparse
from dgc_topo.tables.keys import bucket_bytes_of
from dgc_topo.topology import Topology

_MOST_POINTS = 1_000_000


class SweepPoint(NamedTuple):
    """One combination: all that is predicted once; None is as the network, or nothing.

    Attributes:
        topology: Topology with its options.
        world_size: Number of ranks.
        workload: Work of a training step; None for a collective.
        num_bytes: Dense float32 bytes, of the workload's gradient or of the collective.
        density: Fraction of the elements that is sent.
        wire_dtype: Type of values in messages.
        bucket_bytes: Float32 bytes of a bucket that overlaps; None overlaps nothing.
        accumulation_steps: Forward and backward passes per step.
        every: Local steps per exchange.
        averaging: Averaging rule; None for the usual one.
        slow_rank_factor: On the last rank's compute time.
        network: Network that the variant starts from.
        variant: Numbers that replace the network's.
    """

    topology: Topology
    world_size: int
    workload: Workload | None
    num_bytes: float
    density: float
    wire_dtype: str
    bucket_bytes: float | None
    accumulation_steps: int
    every: int
    averaging: Averaging | None
    slow_rank_factor: float
    network: BaseNetwork
    variant: NetworkNumbers


@dataclass(frozen=True, slots=True, eq=False)
class SweepGrid:
    """All combinations of a sweep's axes, in the order of its records.

    The topology changes slowest, then the world size, then the step, then the network, so that what
    is derived from a schedule serves many neighbours.

    Attributes:
        axes: The axes, and settings that all combinations share.
        networks: The networks of the axis.
        seed: Seed of topologies and of jitter.
        points: The combinations.
    """

    axes: SweepSection
    networks: tuple[BaseNetwork, ...]
    seed: int = 0
    points: tuple[SweepPoint, ...] = field(init=False)

    def __post_init__(self) -> None:
        self._check()
        object.__setattr__(self, "points", tuple(self._combinations()))

    def __reduce__(self) -> tuple[Callable[..., SweepGrid], tuple[Any, ...]]:
        """Pickle it without its points, which are made again."""
        return SweepGrid, (self.axes, self.networks, self.seed)

    def _check(self) -> None:
        """Refuse values that make no sense with any others, naming their axis."""
        names = [network.name for network in self.networks]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise ValueError(f"network: two are called {name!r}, expected names of their own")
        for network in self.networks:
            for variant in self._variants():
                network.numbers(variant)
        if self.axes.is_of_steps:
            self._refuse_compressed_gossip()
            self._refuse_idle_rules()
            self._refuse_idle_overlap()
        size = prod(len(values) for values in self._axes())
        if size > _MOST_POINTS:
            raise ValueError(
                f"sweep: {size:,} combinations, expected at most {_MOST_POINTS:,}; take fewer "
                "values"
            )

    def _refuse_compressed_gossip(self) -> None:
        """Refuse gossip that is compressed at all densities, and densities of gossip only.

        Some of both is no error: those combinations are skipped.
        """
        axes = self.axes
        if axes.averaging:  # each rule says what it sends
            return
        gossip = [topology for topology in axes.topology if topology.gossips]
        sparse = [density for density in axes.density if is_sparse(density)]
        if sparse and len(gossip) == len(axes.topology):
            raise ValueError(
                f"density: {sparse[0]:g} over {gossip[0]}, which averages parameters, which travel "
                "dense; expected 1"
            )
        if gossip and len(sparse) == len(axes.density):
            raise ValueError(
                f"topology: {gossip[0]} averages parameters, which travel dense; expected density "
                "1 as well"
            )

    def _refuse_idle_rules(self) -> None:
        """Refuse rules that fit none of the topologies, or densities of which they send all."""
        axes = self.axes
        for rule in axes.averaging:
            refusals = [rule.refusal_of(topology) for topology in axes.topology]
            if all(refusals):
                raise ValueError(f"averaging: {refusals[0]}")
        whole = [rule for rule in axes.averaging if not rule.compresses]
        sparse = [density for density in axes.density if is_sparse(density)]
        if sparse and whole and len(whole) == len(axes.averaging):
            raise ValueError(
                f"density: {sparse[0]:g}: {whole[0].label} sends all elements, expected 1"
            )

    def _refuse_idle_overlap(self) -> None:
        """Refuse local steps that would overlap in all combinations, and overlap in none."""
        axes = self.axes
        local = [str(every) for every in axes.every if every > 1]
        local += [rule.label for rule in axes.averaging if rule.is_local]
        key, usual = ("averaging", "gradients") if axes.averaging else ("every", "every = 1")
        if local and all(axes.overlap):
            raise ValueError(f"{key}: {local[0]} with overlap, expected overlap = false as well")
        if any(axes.overlap) and len(local) == len(axes.averaging or axes.every):
            raise ValueError(f"overlap: true with {key} {local[0]}, expected {usual} as well")

    def _axes(self) -> tuple[tuple[object, ...], ...]:
        axes = self.axes
        return (
            axes.topology,
            axes.world_size,
            axes.workload or axes.num_bytes,
            axes.density,
            axes.wire_dtype,
            self._buckets(),
            axes.accumulation_steps,
            axes.every,
            axes.averaging or (None,),
            axes.slow_rank_compute_time_factor,
            self.networks,
            self._variants(),
        )

    def _combinations(self) -> Iterator[SweepPoint]:
        for topology, world_size, load, *others in product(*self._axes()):
            workload = load if isinstance(load, Workload) else None
            num_bytes = float(workload.gradient_bytes if workload else load)  # type: ignore[arg-type]
            point = SweepPoint(topology, world_size, workload, num_bytes, *others)  # type: ignore[arg-type]
            rule = point.averaging
            yield point if rule is None else point._replace(every=rule.every)

    def _buckets(self) -> tuple[float | None, ...]:
        """Return the sizes of buckets; a step that does not overlap has one bucket, once."""
        sizes = self.axes.bucket_bytes or (bucket_bytes_of(overlap=True, bucket_mib=None),)
        of_each = [sizes if overlaps else (None,) for overlaps in self.axes.overlap]
        return tuple(each for those in of_each for each in those)

    def _variants(self) -> tuple[NetworkNumbers, ...]:
        axes = self.axes
        return tuple(
            NetworkNumbers(bandwidth, latency, hosts, share, slow)
            for hosts, share, slow, latency, bandwidth in product(
                axes.hosts_per_rack or (None,),
                axes.oversubscription or (None,),
                axes.slow_host_bandwidth_factor,
                axes.latency or (None,),
                axes.bandwidth or (None,),
            )
        )
