"""`advise`: the ways to train a model on a network, predicted and ranked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import exp, log
from typing import TYPE_CHECKING

from dgc_topo.experiments.advice.advice import Advice, Better
from dgc_topo.experiments.advice.verdict import WORTH, best_dense, best_sparse
from dgc_topo.experiments.advice.ways import (
    GradientForm,
    TrainingWay,
    topologies_for,
    way_of,
    ways_over,
)
from dgc_topo.network.cluster import Cluster, load_cluster
from dgc_topo.network.fabrics import Fabric, find_fabric, load_fabric
from dgc_topo.network.kinds import Star
from dgc_topo.scalars import plain_bool, plain_float, plain_int
from dgc_topo.simulation import Workload, load_workload
from dgc_topo.simulation.arguments import as_fraction
from dgc_topo.simulation.training.timeline import Codec
from dgc_topo.sizes import is_sparse
from dgc_topo.topology import load_topology
from dgc_topo.units import count_from, rate_text, seconds_from, seconds_text

if TYPE_CHECKING:
    from pathlib import Path

    from dgc_topo.simulation.workload_sources import Source as WorkloadSource

#: On an H100: 0.288 ms for 25.6 M elements, benchmarks/results/2026-11-28-codec-h100.md.
H100_CODEC = Codec(encode_s_per_element=0.288e-3 / 25.6e6)
#: Ways of sending every element.
DENSE = (GradientForm(), GradientForm(1.0, "bfloat16"))
#: Ways of averaging now and then: local SGD or DiLoCo, and SparseLoCo as it was published.
LOCAL = (GradientForm(every=50), GradientForm(1 / 64, every=30))
#: Better networks to compare with, by what a host's port carries.
_LADDER = ("1gbe", "10gbe", "25gbe", "100gbe", "ib-hdr")
_LEAST_RATE, _MOST_RATE = 1e5, 1e12  #: bytes per second, between which ways may break even
_HALVINGS = 24  #: of that range's logarithm, to a millionth


def advise(  # noqa: PLR0913 - one argument per fact that a user may want to set
    model: WorkloadSource | None = None,
    hosts: int = 2,
    *,
    parameters: int | str | None = None,
    gpus_per_host: int = 1,
    network: str | Path | Cluster = "1gbe",
    step_time: float | str | None = None,
    batch_size: int | None = None,
    compress: float | str | None = None,
    densities: Sequence[float | str] = (0.01, 0.001),
    overlap: bool = True,
) -> Advice:
    """Predict the ways to train a model on a network, and say which to choose.

    Args:
        model: A zoo model's name, ``file.py:Net``, a module, a results folder or a `Workload`; or
            nothing, with *parameters* and *step_time*.
        hosts: Number of machines, at least 2.
        parameters: Number of parameters instead of a model, such as ``"86M"``; all of them are
            taken as one matrix that is ready when the backward pass ends.
        gpus_per_host: Workers on each; above 1 for a network that is a fabric's name only, other
            networks say it themselves.
        network: A fabric's name, a network file, ``FILE:NAME`` or a `Cluster`.
        step_time: Seconds of a forward and backward pass of one worker, such as ``"180ms"``; that
            of the zoo by default.
        batch_size: Items per worker.
        compress: Seconds that compressing takes in a step, such as ``"4ms"``; by default as
            measured on an H100, by the elements.
        densities: Fractions for DGC to consider.
        overlap: Send gradients while the backward pass goes on, as DDP and `dt.hook` do.

    Returns:
        The ways, the fastest first, with 90 % intervals from the errors of validations.

    Raises:
        ValueError: if an argument is out of range or does not fit the others, naming it.

    Example:
        >>> advice = dt.advise("resnet50", 8, network="1gbe")
        >>> advice.best.density < 1
        True
    """
    hosts = plain_int("hosts", hosts, least=2)
    gpus_per_host = plain_int("gpus_per_host", gpus_per_host, least=1)
    overlap = plain_bool("overlap", overlap)
    fractions = [as_fraction(density) for density in densities]
    dense = [f"{density}" for density in fractions if not is_sparse(density)]
    if dense:
        raise ValueError(f"densities: {', '.join(dense)}, expected below 1 (dense is considered)")
    workload = workload_of(model, parameters, step_time, batch_size)
    cluster = cluster_of(network, hosts, gpus_per_host)
    sparse = [GradientForm(d, merge=merge) for d in fractions for merge in ("union", "reselect")]
    forms = [*DENSE, *sparse, *LOCAL]
    codec = H100_CODEC if compress is None else _codec_of(compress)
    topologies = topologies_for(cluster.num_ranks, gpus_per_host)
    found = ways_over(topologies, forms, workload, cluster, overlap=overlap, codec=codec)
    ways = tuple(sorted(found, key=lambda way: way.step_time_s))
    return Advice(
        workload,
        cluster.name,
        hosts,
        gpus_per_host,
        ways,
        _better(workload, fabric_of(network), hosts, gpus_per_host, overlap=overlap),
        _break_even(ways, workload, cluster, overlap=overlap, codec=codec),
        codec,
        tuple(_assumptions(workload, cluster, given=compress is not None, overlap=overlap)),
    )


def workload_of(
    model: WorkloadSource | None,
    parameters: int | str | None,
    step_time: float | str | None,
    batch_size: int | None,
) -> Workload:
    """Return the workload of a model, or of so many parameters.

    Raises:
        ValueError: if both or none are given, or a time is missing.
    """
    if (model is None) == (parameters is None):
        found = "both" if model is not None else "none of them"
        raise ValueError(f"model and parameters: {found} given, expected one of them")
    if parameters is None:
        with naming("compute_s", "step_time"):
            return load_workload(model, compute_s=step_time, batch_size=batch_size)
    if step_time is None:
        raise ValueError("step_time: missing beside parameters, expected one such as '180ms'")
    elements = (
        count_from(parameters, "parameters")
        if isinstance(parameters, str)
        else plain_int("parameters", parameters, least=1)
    )
    with naming("compute_s", "step_time"):
        return load_workload(elements=elements, compute_s=step_time, batch_size=batch_size)


@contextmanager
def naming(argument: str, shown: str) -> Iterator[None]:
    """Name an argument in errors as the caller knows it."""
    try:
        yield
    except ValueError as error:
        text = str(error)
        if not text.startswith(argument):
            raise
        raise ValueError(shown + text.removeprefix(argument)) from error


def _codec_of(compress: float | str) -> Codec:
    if isinstance(compress, str):
        return Codec(fixed_s=seconds_from(compress, "compress"))
    return Codec(fixed_s=plain_float("compress", compress))


def cluster_of(network: str | Path | Cluster, hosts: int, gpus_per_host: int) -> Cluster:
    """Return the cluster of so many hosts with so many GPUs.

    Raises:
        ValueError: if the network's own hosts have another number of GPUs, or are fewer.
    """
    fabric = fabric_of(network)
    if gpus_per_host > 1 and fabric is not None:
        name = f"{fabric}-{gpus_per_host}gpus"
        star = Star(kind="star", name=name, base=fabric, gpus_per_host=gpus_per_host)
        return load_cluster(star, hosts * gpus_per_host)
    cluster = load_cluster(network, hosts * gpus_per_host)
    own = cluster.network.slots_per_host
    if own != gpus_per_host:
        raise ValueError(
            f"gpus_per_host {gpus_per_host}: hosts of {cluster.name} have {own}, expected as many"
        )
    return cluster


def fabric_of(network: str | Path | Cluster) -> str | None:
    """Return the name of the fabric that *network* names; None if it is anything else."""
    return find_fabric(network) if isinstance(network, str) else None


def _better(
    workload: Workload, fabric: str | None, hosts: int, gpus_per_host: int, *, overlap: bool
) -> tuple[Better, ...]:
    """Return dense training over each faster fabric, over the topologies that suit."""
    if fabric is None:
        return ()
    own = load_fabric(fabric).bandwidth_bytes_per_s
    found = []
    for name in _LADDER:
        if load_fabric(name).bandwidth_bytes_per_s > own:
            cluster = cluster_of(name, hosts, gpus_per_host)
            topologies = topologies_for(cluster.num_ranks, gpus_per_host)
            ways = ways_over(topologies, DENSE, workload, cluster, overlap=overlap, codec=Codec())
            found.append(Better(name, min(ways, key=lambda way: way.step_time_s)))
    return tuple(found)


def _break_even(
    ways: Sequence[TrainingWay],
    workload: Workload,
    cluster: Cluster,
    *,
    overlap: bool,
    codec: Codec,
) -> float | None:
    """Return the bandwidth at which compressing is just worth while, see `WORTH`.

    The ways stay those that are best on the network itself.
    """
    fabric, sparse = cluster.fabric, best_sparse(ways)
    if fabric is None or sparse is None:
        return None
    pair = best_dense(ways), sparse

    def gain(bandwidth_bytes_per_s: float) -> float:
        """Return a number above 0 where compressing is worth while."""
        other = Fabric(fabric.name, bandwidth_bytes_per_s, fabric.latency_s, fabric.source)
        there = load_cluster(other, cluster.num_ranks)
        dense_s, sparse_s = (
            way_of(
                load_topology(way.topology),
                way.form,
                workload,
                there,
                overlap=overlap,
                codec=codec,
            ).step_time_s
            for way in pair
        )
        return dense_s - WORTH * sparse_s

    low, high = _LEAST_RATE, _MOST_RATE
    if gain(low) <= 0 or gain(high) >= 0:
        return None
    for _ in range(_HALVINGS):
        middle = exp((log(low) + log(high)) / 2)
        low, high = (middle, high) if gain(middle) > 0 else (low, middle)
    return low


def _assumptions(
    workload: Workload, cluster: Cluster, *, given: bool, overlap: bool
) -> Sequence[str]:
    """Return what the numbers rest on."""
    when = "while the backward pass goes on" if overlap else "after the backward pass"
    compressing = "as much as given" if given else "as measured on an H100 (1.1e-11 s per element)"
    fabric = cluster.fabric
    rate = ""
    if fabric is not None:
        rate = f" at {rate_text(8 * fabric.bandwidth_bytes_per_s)} ({fabric.source})"
    return (
        f"a worker computes for {seconds_text(workload.compute_s)} per step: {workload.source}",
        f"the network is {cluster.name}{rate}",
        f"gradients travel {when}",
        f"compressing costs {compressing}",
        "ways that average every so many steps are other algorithms, docs/averaging.md",
        "workers choose their elements independently of each other; real ones choose some alike, "
        "and sums of them are smaller",
        "intervals hold 90 % of what validations measured on calibrated networks; yours is known "
        "as well after dgc-topo calibrate",
    )
