"""PowerSGD as a reference: the bytes of its factors, and the least time of a step that sends them.

A matrix of n rows and m columns is sent as two factors of r columns, of ``r (n + m)`` numbers, if
these are fewer; biases and normalisations are sent whole.  (Vogels, Karimireddy, Jaggi, "PowerSGD",
NeurIPS 2019, section 3; a tensor of more dimensions is a matrix with the first one as its rows.)
What computing the factors takes is not in the time, nor is its price in accuracy known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from dgc_topo.experiments.advice.ways import GradientForm, TrainingWay, ways_over
from dgc_topo.network.cluster import Cluster
from dgc_topo.simulation import Workload
from dgc_topo.simulation.training.timeline import Codec
from dgc_topo.simulation.workload import ReadyLayer
from dgc_topo.sizes import FLOAT_BYTES
from dgc_topo.topology import Topology

RANKS = (1, 4)  #: of its approximations


@dataclass(frozen=True, slots=True)
class ReferenceWay:
    """A way that others offer, with what is known of it.

    Attributes:
        name: Name for people.
        topology: Topology over which its bytes travel the fastest.
        own_bytes: Bytes of one worker's message.
        compression_ratio: Bytes of the float32 gradient over these.
        least_s: Seconds of a step, without what coding takes.
        most_speedup: Throughput over that of one worker that sends nothing, at most.
    """

    name: str
    topology: str
    own_bytes: float
    compression_ratio: float
    least_s: float
    most_speedup: float

    @property
    def label(self) -> str:
        """Text for tables, such as ``PowerSGD rank 4 over ring``."""
        return f"{self.name} over {self.topology}"

    def as_dict(self) -> dict[str, object]:
        """Return all of it as plain numbers and texts."""
        return {
            "way": self.label,
            "topology": self.topology,
            "own_bytes": self.own_bytes,
            "compression_ratio": self.compression_ratio,
            "least_step_time_s": self.least_s,
            "most_speedup": self.most_speedup,
        }


def factor_elements(shape: Sequence[int], rank: int) -> int:
    """Return the numbers that PowerSGD sends of a tensor of two dimensions or more.

    Args:
        shape: Its shape.
        rank: Columns of the factors.
    """
    rows = shape[0]
    columns = prod(shape[1:])
    return min(rank * (rows + columns), rows * columns)


def factored(workload: Workload, rank: int) -> Workload | None:
    """Return the workload whose gradient is PowerSGD's factors; None if shapes are not known.

    Args:
        workload: Work of one worker.
        rank: Columns of the factors.
    """
    if any(layer.tensor_sizes and not layer.shapes for layer in workload.layers):
        return None
    return replace(workload, layers=tuple(_factored(layer, rank) for layer in workload.layers))


def _factored(layer: ReadyLayer, rank: int) -> ReadyLayer:
    sent = sum(factor_elements(shape, rank) for shape in layer.shapes)
    return ReadyLayer(layer.name, layer.ready_s, (), layer.dense_elements + sent)


def references(
    workload: Workload, topologies: Sequence[Topology], cluster: Cluster, *, overlap: bool
) -> tuple[ReferenceWay, ...]:
    """Return PowerSGD of each of `RANKS`; nothing if the workload's shapes are not known."""
    found = []
    for rank in RANKS:
        sent = factored(workload, rank)
        if sent is not None:
            forms = [GradientForm()]
            ways = ways_over(topologies, forms, sent, cluster, overlap=overlap, codec=Codec())
            best = min(ways, key=lambda way: way.step_time_s)
            found.append(_reference(f"PowerSGD rank {rank}", workload, sent, best))
    return tuple(found)


def _reference(name: str, workload: Workload, sent: Workload, way: TrainingWay) -> ReferenceWay:
    own_bytes = FLOAT_BYTES * sent.num_elements
    ratio = workload.gradient_bytes / max(own_bytes, 1)
    return ReferenceWay(name, way.topology, own_bytes, ratio, way.step_time_s, way.speedup)
