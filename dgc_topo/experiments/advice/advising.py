"""`advise`: the ways to train a model on a network, predicted and ranked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dgc_topo.experiments.advice.advice import Advice
from dgc_topo.experiments.advice.assumptions import assumptions_of
from dgc_topo.experiments.advice.clusters import calibration_of, cluster_of, fabric_of
from dgc_topo.experiments.advice.comparing import better_networks, break_even
from dgc_topo.experiments.advice.powersgd import references
from dgc_topo.experiments.advice.sources import CostedWork, work_of
from dgc_topo.experiments.advice.ways import (
    DENSE,
    LOCAL,
    GradientForm,
    topologies_for,
    ways_over,
)
from dgc_topo.network.fabrics import load_fabric
from dgc_topo.scalars import plain_bool
from dgc_topo.simulation.arguments import as_fraction
from dgc_topo.sizes import is_sparse

if TYPE_CHECKING:
    from pathlib import Path

    from dgc_topo.experiments.advice.modules import Examples
    from dgc_topo.network.cluster import Cluster
    from dgc_topo.simulation.workload_sources import Source as WorkloadSource


def advise(  # noqa: PLR0913 - one argument per fact that a user may want to set
    model: WorkloadSource | None = None,
    hosts: int = 2,
    *,
    parameters: int | str | None = None,
    gpus_per_host: int = 1,
    network: str | Path | Cluster = "1gbe",
    step_time: float | str | None = None,
    measure: bool = False,
    examples: str | Examples | None = None,
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
        measure: Run some steps of the model here, on random input, and take their times and those
            of compressing; on a GPU where there is one.
        examples: Input of a model of your own that is measured: the shape of an item such as
            ``"3x224x224"``, or a function (or ``file.py:NAME``) from a batch size to the input: a
            tensor, or a tuple or dictionary of arguments.
        batch_size: Items per worker.
        compress: Seconds that compressing takes in a step, such as ``"4ms"``; by default as
            measured here or else on an H100, by the elements.
        densities: Fractions for DGC to consider.
        overlap: Send gradients while the backward pass goes on, as DDP and `dt.hook` do.

    Returns:
        The ways, the fastest first, with 90 % intervals from the errors of validations.

    Raises:
        ValueError: if an argument is out of range or does not fit the others, naming it, or a
            model cannot be measured.

    Example:
        >>> advice = dt.advise("resnet50", 8, network="1gbe")
        >>> advice.best.density < 1
        True
    """
    work = work_of(
        model,
        parameters=parameters,
        step_time=step_time,
        batch_size=batch_size,
        compress=compress,
        measure=measure,
        examples=examples,
    )
    return advice_for(
        work, hosts, network, gpus_per_host=gpus_per_host, densities=densities, overlap=overlap
    )


def advice_for(
    work: CostedWork,
    hosts: int,
    network: str | Path | Cluster,
    *,
    gpus_per_host: int,
    densities: Sequence[float | str],
    overlap: bool,
) -> Advice:
    """Return the advice on some work; the other arguments as of `advise`."""
    overlap = plain_bool("overlap", overlap)
    sparse = _sparse_forms(densities)
    cluster = cluster_of(network, hosts, gpus_per_host)
    workload, codec, named = work.workload, work.codec, fabric_of(network)
    fabric = load_fabric(named) if named else cluster.fabric
    topologies = topologies_for(cluster.num_ranks, gpus_per_host)
    forms = [*DENSE, *sparse, *LOCAL]
    found = ways_over(topologies, forms, workload, cluster, overlap=overlap, codec=codec)
    ways = tuple(sorted(found, key=lambda way: way.step_time_s))
    others = references(workload, topologies, cluster, overlap=overlap)
    return Advice(
        workload=workload,
        network=cluster.name,
        num_hosts=hosts,
        gpus_per_host=gpus_per_host,
        ways=ways,
        references=others,
        better=better_networks(workload, named, hosts, gpus_per_host, overlap=overlap),
        break_even_bytes_per_s=break_even(
            ways, workload, fabric, hosts, gpus_per_host, overlap=overlap, codec=codec
        ),
        codec=codec,
        assumptions=tuple(
            assumptions_of(
                work,
                cluster,
                fabric,
                calibration_of(network),
                overlap=overlap,
                has_references=bool(others),
            )
        ),
    )


def _sparse_forms(densities: Sequence[float | str]) -> list[GradientForm]:
    """Return DGC at each density, with exact and with pruned sums."""
    if isinstance(densities, str) or not isinstance(densities, Sequence):
        raise ValueError(  # noqa: TRY004 - as all that makes no sense
            f"densities {densities!r}: expected a list of fractions"
        )
    fractions = list(dict.fromkeys(as_fraction(density) for density in densities))
    dense = [f"{density}" for density in fractions if not is_sparse(density)]
    if dense:
        raise ValueError(f"densities: {', '.join(dense)}, expected below 1 (dense is considered)")
    return [GradientForm(d, merge=merge) for d in fractions for merge in ("union", "reselect")]
