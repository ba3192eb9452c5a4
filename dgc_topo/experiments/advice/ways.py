"""Ways to train: a topology and how gradients travel, with the predicted step and its interval."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dgc_topo.experiments.advice.errors import interval_of_step
from dgc_topo.network.cluster import Cluster
from dgc_topo.simulation import Workload
from dgc_topo.simulation.training import simulate_step
from dgc_topo.simulation.training.timeline import Codec
from dgc_topo.sizes import is_sparse
from dgc_topo.topology import Topology, TopologyError, load_topology
from dgc_topo.units import percent_text
from dgc_topo.wire.coding import WireDtype

#: Topologies that sum gradients, the ones to prefer first where times are equal.
TOPOLOGIES = ("ring", "butterfly", "tree", "sharded-parameter-server", "parameter-server", "mesh")
#: Ranks up to which topologies are considered whose messages grow with the square of the ranks.
MOST_RANKS = {"mesh": 64, "ring": 512, "sharded-parameter-server": 512}
_PORT = re.compile(r"host \d+ (up|down)( \(and \d+ more\))?")


@dataclass(frozen=True, slots=True)
class GradientForm:
    """Form in which gradients travel.

    Attributes:
        density: Fraction of the compressible elements that is sent; 1 is dense.
        wire_dtype: Type of the values in messages.
        merge: Policy of sparse sums, see `simulate_step`.
        every: Local steps from one exchange to the next; above 1 it is the change of the parameters
            that travels (local SGD, DiLoCo, SparseLoCo).
    """

    density: float = 1.0
    wire_dtype: WireDtype = "float32"
    merge: Literal["union", "reselect"] = "union"
    every: int = 1

    @property
    def label(self) -> str:
        """Text for tables: ``DGC 0.1 %``, ``dense bfloat16``, ``local SGD every 50 steps``."""
        if self.every > 1:
            return self._local_label
        words = [f"DGC {percent_text(self.density)}" if is_sparse(self.density) else "dense"]
        if self.wire_dtype != "float32":
            words.append(self.wire_dtype)
        if self.merge != "union":
            words.append(self.merge)
        return " ".join(words)

    @property
    def _local_label(self) -> str:
        sparse = is_sparse(self.density)
        name = f"SparseLoCo {100 * self.density:.2g} %" if sparse else "local SGD"
        return f"{name} every {self.every} steps"

    @property
    def sends_gradients(self) -> bool:
        """True unless it is an algorithm of its own, with local steps."""
        return self.every == 1


#: Ways of sending every element.
DENSE = (GradientForm(), GradientForm(1.0, "bfloat16"))
#: Ways of averaging now and then: local SGD or DiLoCo, and SparseLoCo as it was published.
LOCAL = (GradientForm(every=50), GradientForm(1 / 64, every=30))


@dataclass(frozen=True, slots=True)
class TrainingWay:
    """A way to train, and its predicted step.

    Attributes:
        topology: Text of the topology.
        form: Form in which gradients travel.
        step_time_s: Seconds of a training step.
        low_s: Lower end of its 90 % interval.
        high_s: Upper end.
        alone_s: Seconds of a step of one worker that sends nothing.
        num_workers: Ranks that train.
        bound_by: Name of what bounds the step: compute, a link, a processor, or latency.
        bytes_per_rank: Bytes that the busiest rank sends in a step.
    """

    topology: str
    form: GradientForm
    step_time_s: float
    low_s: float
    high_s: float
    alone_s: float
    num_workers: int
    bound_by: str
    bytes_per_rank: float

    @property
    def label(self) -> str:
        """Text for tables, such as ``DGC 0.1 % over butterfly``."""
        return f"{self.form.label} over {self.topology}"

    @property
    def bound_text(self) -> str:
        """Name of what bounds the step, for people: ports of hosts without their numbers."""
        return "the hosts' ports" if _PORT.fullmatch(self.bound_by) else self.bound_by

    @property
    def density(self) -> float:
        """Fraction of the compressible elements that is sent."""
        return self.form.density

    @property
    def speedup(self) -> float:
        """Throughput over that of one worker that sends nothing."""
        return self._speedup_at(self.step_time_s)

    @property
    def speedup_low(self) -> float:
        """Lower end of the speed-up's 90 % interval."""
        return self._speedup_at(self.high_s)

    @property
    def speedup_high(self) -> float:
        """Upper end of the speed-up's 90 % interval."""
        return self._speedup_at(self.low_s)

    def _speedup_at(self, step_time_s: float) -> float:
        return self.num_workers * self.alone_s / step_time_s

    def as_dict(self) -> dict[str, object]:
        """Return all of it as plain numbers and texts."""
        return {
            "way": self.label,
            "topology": self.topology,
            "density": self.density,
            "wire_dtype": self.form.wire_dtype,
            "merge": self.form.merge,
            "every": self.form.every,
            "step_time_s": self.step_time_s,
            "low_s": self.low_s,
            "high_s": self.high_s,
            "speedup": self.speedup,
            "speedup_low": self.speedup_low,
            "speedup_high": self.speedup_high,
            "bound_by": self.bound_by,
            "bytes_per_rank": self.bytes_per_rank,
        }


def topologies_for(num_ranks: int, gpus_per_host: int) -> list[Topology]:
    """Return the topologies that suit so many ranks, hierarchical ones where hosts have GPUs."""
    names = [name for name in TOPOLOGIES if num_ranks <= MOST_RANKS.get(name, num_ranks)]
    found = [load_topology(name) for name in names]
    if 1 < gpus_per_host < num_ranks:
        found.append(load_topology("hierarchical", group_size=gpus_per_host))
    return [topology for topology in found if _runs(topology, num_ranks)]


def _runs(topology: Topology, num_ranks: int) -> bool:
    try:
        topology.schedule(num_ranks)
    except TopologyError:  # such as a number of ranks that it cannot serve
        return False
    return True


def ways_over(
    topologies: Sequence[Topology],
    forms: Sequence[GradientForm],
    workload: Workload,
    cluster: Cluster,
    *,
    overlap: bool,
    codec: Codec,
) -> Iterator[TrainingWay]:
    """Yield each form over each topology, predicted.

    Args:
        topologies: Topologies that can run on all ranks of the cluster.
        forms: Ways in which gradients travel.
        workload: Work of one worker.
        cluster: Ranks on a network.
        overlap: Send gradients while the backward pass goes on.
        codec: Costs of compressing.
    """
    for form in forms:
        for topology in topologies:
            if form.merge == "reselect" and topology.schedule(cluster.num_ranks).servers:
                continue  # a server has no residual for what it rejects
            yield way_of(topology, form, workload, cluster, overlap=overlap, codec=codec)


def way_of(
    topology: Topology,
    form: GradientForm,
    workload: Workload,
    cluster: Cluster,
    *,
    overlap: bool,
    codec: Codec,
) -> TrainingWay:
    """Return one form over one topology, predicted; arguments as of `ways_over`."""
    sparse = is_sparse(form.density)
    found = simulate_step(
        workload,
        topology,
        cluster,
        density=form.density,
        wire_dtype=form.wire_dtype,
        merge=form.merge,
        every=form.every,
        overlap=overlap and form.sends_gradients,
        codec=codec if sparse else None,
    )
    interval = interval_of_step(
        found.step_time_s,
        communication_s=found.communication_s,
        alone_s=found.step.alone_s,
        num_bytes=sum(map(found.step.encoding.own_bytes, found.step.buckets)),
        sparse=sparse,
    )
    return TrainingWay(
        str(topology),
        form,
        found.step_time_s,
        interval.low_s,
        interval.high_s,
        found.step.alone_s,
        found.num_workers,
        found.bound_by,
        found.bytes_per_rank,
    )


def best_by_form(ways: Sequence[TrainingWay]) -> Mapping[GradientForm, TrainingWay]:
    """Return the fastest way of each form, in the order of their first appearance."""
    found: dict[GradientForm, TrainingWay] = {}
    for way in ways:
        if way.form not in found or way.step_time_s < found[way.form].step_time_s:
            found[way.form] = way
    return found
