"""One prediction of a sweep, by the path that every prediction takes; and its fingerprint."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

from pydantic_core import to_json

from dgc_topo.averaging import Averaging, identified
from dgc_topo.experiments.sweep.grid import SweepGrid, SweepPoint
from dgc_topo.experiments.sweep.networks import BaseNetwork, NetworkNumbers
from dgc_topo.experiments.sweep.rows import (
    SweepRow,
    SweptCollective,
    SweptStep,
    results_of_collective,
    results_of_step,
)
from dgc_topo.network.cluster import Cluster
from dgc_topo.simulation.buffer import Buffer
from dgc_topo.simulation.collective import simulate_buffer
from dgc_topo.simulation.training import Codec, ComputeFactors, TrainingStep
from dgc_topo.simulation.training.periods import average_steps, kept_schedule
from dgc_topo.simulation.training.simulation import (
    by_rule,
    check_rule,
    encoding_for,
    what_is_sent,
)
from dgc_topo.simulation.workload import Workload
from dgc_topo.sizes import is_sparse
from dgc_topo.topology import Topology
from dgc_topo.wire.coding import WireCoding

_KEPT = 512  # clusters and steps of neighbours in the grid
_EVERY_S = 0.1  # time between two lots: an interrupt costs no more


class Predictor:
    """Predictor of the points of a grid; it keeps what neighbours share.

    Attributes:
        grid: The grid.
    """

    def __init__(self, grid: SweepGrid) -> None:
        self.grid = grid
        self._cluster = lru_cache(_KEPT)(_cluster)
        self._step = lru_cache(_KEPT)(self._make_step)
        self._numbers = cache(BaseNetwork.numbers)

    @property
    def kind(self) -> type[SweepRow]:
        """Type of the rows."""
        return SweptStep if self.grid.axes.is_of_steps else SweptCollective

    def why_not(self, point: SweepPoint) -> str:
        """Return why a point cannot be predicted, as far as that is known before; else ""."""
        try:
            self._check(point)
        except ValueError as error:
            return str(error)
        return ""

    def lots(self, numbers: Iterable[int]) -> Iterator[list[SweepRow]]:
        """Yield the records of points, by their numbers, a few at a time and several a second."""
        ready: list[SweepRow] = []
        last_s = time.monotonic()
        for number in numbers:
            ready.append(self.row(self.grid.points[number]))
            if time.monotonic() - last_s >= _EVERY_S:
                yield ready
                ready, last_s = [], time.monotonic()
        if ready:
            yield ready

    def row(self, point: SweepPoint) -> SweepRow:
        """Return the record of a point; one that turns out to be impossible is skipped."""
        try:
            results = self._results(point)
        except ValueError as error:  # of a file's steps, or of links that fail for good
            return self.skipped(point, str(error))
        return self.kind.model_validate(self.settings(point) | results)

    def skipped(self, point: SweepPoint, reason: str) -> SweepRow:
        """Return the record of a point that is not predicted."""
        return self.kind.model_validate(self.settings(point) | {"skipped": reason})

    def job(self, point: SweepPoint) -> str:
        """Return the fingerprint of all that decides a point's results."""
        return str(self.settings(point)["job"])

    def settings(self, point: SweepPoint) -> dict[str, object]:
        """Return the settings of a point by their columns, and its fingerprint."""
        of_step = point.workload is not None
        numbers = self._numbers(point.network, point.variant)
        settings: dict[str, object] = {
            "topology": str(point.topology),
            "world_size": point.world_size,
            "workload": point.workload.name if point.workload else None,
            "network": point.network.name,
            **numbers._asdict(),
            "density": point.density,
            "num_bytes": point.num_bytes,
            "overlap": point.bucket_bytes is not None if of_step else None,
            "bucket_bytes": point.bucket_bytes if of_step else None,
            "wire_dtype": point.wire_dtype,
            "accumulation_steps": point.accumulation_steps if of_step else None,
            "slow_rank_factor": point.slow_rank_factor if of_step else None,
        }
        job, rule = self._key(point, settings), point.averaging
        own = {"every": point.every, "averaging": rule and str(rule)} if of_step else {}
        return settings | {"job": job} | own

    def _key(self, point: SweepPoint, settings: dict[str, object]) -> str:
        """Return the fingerprint of all that decides a point's results.

        Settings at their defaults are left out, so that a new setting does not change it.
        """
        axes = self.grid.axes
        seeded = point.topology.is_seeded or axes.jitter
        sparse = is_sparse(point.density)
        more = {
            "topology": _digest_of_topology(point.topology),
            "workload": point.workload and _digest_of_workload(point.workload),
            "network": point.network.digest,
            "variant": [*point.variant],
            "every": point.every if point.every > 1 else None,
            "averaging": point.averaging and identified(point.averaging),
            "seed": self.grid.seed if seeded else None,
            "codec": repr(axes.codec) if sparse and axes.codec != Codec() else None,
            "jitter": repr(axes.jitter) if axes.jitter else None,
            "union_exponent": axes.union_exponent if sparse else None,
            "index_encoding": axes.index_encoding if axes.index_encoding != "auto" else None,
            # Messages in the smallest coding became smaller when it could be Rice's.
            "codings": 2 if sparse and axes.index_encoding == "auto" else None,
            "num_steps": axes.num_steps,
        }
        said = {key: value for key, value in more.items() if value is not None}
        return hashlib.sha256(to_json([settings, said])).hexdigest()[:16]

    def _check(self, point: SweepPoint) -> None:
        """Refuse a combination whose topology, density or network does not go with its ranks."""
        schedule = kept_schedule(point.topology, point.world_size, 0, self.grid.seed)
        if point.workload is not None:
            rule, is_local = point.averaging, point.every > 1
            if rule is None:
                what_is_sent(point.topology, schedule, point.density, every=point.every)
            else:
                check_rule(rule, point.topology, point.density)
                is_local = rule.is_local
            if is_local and point.bucket_bytes is not None:
                said = f"every {point.every}" if rule is None else rule.label
                raise ValueError(f"{said} with overlap, expected one without the other")
        axes, shape = self.grid.axes, point.variant  # how fast it is makes no difference
        if axes.bandwidth:
            shape = shape._replace(bandwidth_bytes_per_s=axes.bandwidth[0])
        if axes.latency:
            shape = shape._replace(latency_s=axes.latency[0])
        self._cluster(point.network, shape, point.world_size)

    def _results(self, point: SweepPoint) -> dict[str, object]:
        cluster = self._cluster(point.network, point.variant, point.world_size)
        grid, axes = self.grid, self.grid.axes
        if point.workload is None:
            schedule = kept_schedule(point.topology, point.world_size, 0, grid.seed)
            exponent = axes.union_exponent if is_sparse(point.density) else None
            coding = WireCoding.named(axes.index_encoding, point.wire_dtype)
            buffer = Buffer(point.num_bytes, point.density, coding, exponent)
            return results_of_collective(simulate_buffer(point.topology, schedule, cluster, buffer))
        step = self._step(
            _Settings(
                point.workload,
                point.density,
                point.wire_dtype,
                point.bucket_bytes,
                point.accumulation_steps,
                point.every,
                point.every > 1 and not point.topology.gossips,
                point.averaging,
                point.slow_rank_factor,
                point.world_size,
            )
        )
        return results_of_step(
            average_steps(
                step,
                point.topology,
                cluster,
                density=point.density,
                seed=grid.seed,
                num_steps=axes.num_steps,
            )
        )

    def _make_step(self, its: _Settings) -> TrainingStep:
        axes, sparse = self.grid.axes, is_sparse(its.density)
        coding = WireCoding.named(axes.index_encoding, its.wire_dtype)
        slow = {} if its.slow_rank_factor == 1 else {its.world_size - 1: its.slow_rank_factor}
        step = TrainingStep(
            workload=its.workload,
            encoding=encoding_for(its.density, coding, axes.union_exponent if sparse else None),
            codec=axes.codec if sparse else Codec(),
            bucket_bytes=its.bucket_bytes,
            accumulation_steps=its.accumulation_steps,
            compute_factors=ComputeFactors(slow, axes.jitter, self.grid.seed),
            every=its.every,
            moves_first=its.moves_first,
        )
        return step if its.averaging is None else by_rule(step, its.averaging)


class _Settings(NamedTuple):
    """Settings of a training step that many points share."""

    workload: Workload
    density: float
    wire_dtype: str
    bucket_bytes: float | None
    accumulation_steps: int
    every: int
    moves_first: bool
    averaging: Averaging | None
    slow_rank_factor: float
    world_size: int


def _cluster(network: BaseNetwork, variant: NetworkNumbers, world_size: int) -> Cluster:
    return network.cluster(variant, world_size)


@cache
def _digest_of_topology(topology: Topology) -> str | None:
    """Return a digest of a file's content, which decides beside its name."""
    if not topology.is_file:
        return None
    return hashlib.sha256(Path(topology.folder, topology.name).read_bytes()).hexdigest()


@cache
def _digest_of_workload(workload: Workload) -> str:
    numbers = workload.forward_s, workload.update_s, workload.batch_samples, workload.layers
    return hashlib.sha256(repr(numbers).encode()).hexdigest()
