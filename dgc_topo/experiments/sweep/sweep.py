"""`sweep`: predictions for all combinations of many settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from dgc_topo.experiments.scenario.axes import Spread
from dgc_topo.experiments.scenario.sweep import SweepSection
from dgc_topo.experiments.sweep.grid import SweepGrid
from dgc_topo.experiments.sweep.networks import base_network
from dgc_topo.experiments.sweep.result import SweepRecords
from dgc_topo.experiments.sweep.running import SweepObserver, run_grid
from dgc_topo.scalars import plain_int
from dgc_topo.tables.explain import explain_all

if TYPE_CHECKING:
    from dgc_topo.averaging import Averaging
    from dgc_topo.network.cluster import Source as NetworkSource
    from dgc_topo.simulation.training import Codec
    from dgc_topo.simulation.training.timeline import Jitter
    from dgc_topo.simulation.workload_sources import Source as WorkloadSource
    from dgc_topo.topology import Topology


def sweep(  # noqa: PLR0913 - one argument per axis
    topology: str | Path | Topology | dict[str, Any] | Sequence[Any],
    world_size: int | Spread | Sequence[Any],
    network: NetworkSource | Sequence[Any],
    workload: WorkloadSource | dict[str, Any] | Sequence[Any] | None = None,
    *,
    num_bytes: float | str | Spread | Sequence[Any] | None = None,
    bandwidth: float | str | Spread | Sequence[Any] | None = None,
    latency: float | str | Spread | Sequence[Any] | None = None,
    density: float | str | Spread | Sequence[Any] | None = None,
    overlap: bool | Sequence[bool] | None = None,
    bucket_bytes: float | str | Spread | Sequence[Any] | None = None,
    wire_dtype: str | Sequence[str] | None = None,
    accumulation_steps: int | Spread | Sequence[Any] | None = None,
    every: int | Spread | Sequence[Any] | None = None,
    averaging: str | Averaging | Sequence[Any] | None = None,
    hosts_per_rack: int | Spread | Sequence[Any] | None = None,
    oversubscription: float | Spread | Sequence[Any] | None = None,
    slow_host_bandwidth_factor: float | Spread | Sequence[Any] | None = None,
    slow_rank_compute_time_factor: float | Spread | Sequence[Any] | None = None,
    codec: Codec | float | str | dict[str, float] | None = None,
    jitter: Jitter | float | dict[str, Any] | None = None,
    union_exponent: float | None = None,
    index_encoding: str | None = None,
    num_steps: int | None = None,
    seed: int = 0,
    output: str | Path | None = None,
    processes: int | None = None,
    observer: SweepObserver | None = None,
) -> SweepRecords:
    """Predict all combinations of many settings: training steps, or collectives.

    Each of the settings down to *slow_rank_compute_time_factor* takes one value, a list, a NumPy
    array, or a range (see `spread`).  A row is what `simulate_step`, or `simulate`, gives for its
    settings.  A combination that cannot be is a row with the reason in ``skipped``.

    Args:
        topology: Topologies, see `load_topology`; a table such as ``{"name": "hierarchical",
            "options": {"group_size": [2, 4]}}`` stands for one with each of its options' values.
        world_size: Numbers of ranks.
        network: Networks, see `load_cluster`.
        workload: Workloads, see `load_workload`; or a table with keys of a scenario's workloads.
        num_bytes: Dense float32 bytes of a collective, in the place of a workload.
        bandwidth: Of each host's link each way, such as ``"10Gbit/s"`` or bytes per second; by
            default the network's own.  An uplink that a network file gives keeps its rate.
        latency: Of each link, such as ``"10us"`` or seconds; host to host around one switch is two
            links.  By default the network's own.
        density: Fractions of the elements that are sent; 1 by default.
        overlap: Send gradients while the backward pass goes on; False by default.
        bucket_bytes: Sizes of buckets where it overlaps; ``25MiB`` by default.
        wire_dtype: Types of values on the wire; ``float32`` by default.
        accumulation_steps: Forward and backward passes per step; 1 by default.
        every: Local steps per exchange; 1 by default, which sends gradients, but for gossip.
        averaging: Averaging rules such as ``diloco:every=50``, in the place of *every*, which they
            say; see `load_averaging`.  Each goes over the topologies that it fits.
        hosts_per_rack: Puts the hosts of a fabric into racks, or changes those of a network.
        oversubscription: Bandwidth of a rack's hosts over that of its uplink.
        slow_host_bandwidth_factor: On the bandwidth of the links of the last rank's host: 0.5 is
            half as fast.
        slow_rank_compute_time_factor: On the compute time of the last rank: 2 is half as fast.
        codec: Time that compressing takes, see `simulate_step`, where a density is below 1.
        jitter: See `simulate_step`.
        union_exponent: See `simulate`; where a density is below 1.
        index_encoding: Coding of indices in sparse messages.
        num_steps: Steps to average over; 8 if they differ, else 1.
        seed: Seed of topologies and of jitter.
        output: Folder for the records, which is made.  What is there already is not predicted
            again, so that an interrupted sweep goes on; earlier records of other settings are
            renamed with their folder.
        processes: Worker processes; by default one per core, or none for a few predictions.
        observer: Object that is told about progress.

    Raises:
        ValueError: naming the axis, if a value makes no sense, alone or with all others; raised
            before anything is predicted.
        ResultsError: if there is no room for the records.

    Example:
        >>> rates = dt.spread("100Mbit/s", "100Gbit/s", 4)
        >>> found = dt.sweep(["ring", "tree"], [4, 16], "1gbe", "resnet50", bandwidth=rates)
        >>> found
        Sweep(16 training steps)
        >>> found.to_frame().groupby("topology").step_time_s.min().idxmin()
        'ring'
    """
    given = {
        "topology": topology,
        "world_size": world_size,
        "network": network,
        "workload": workload,
        "num_bytes": num_bytes,
        "bandwidth": bandwidth,
        "latency": latency,
        "density": density,
        "overlap": overlap,
        "bucket_bytes": bucket_bytes,
        "wire_dtype": wire_dtype,
        "accumulation_steps": accumulation_steps,
        "every": every,
        "averaging": averaging,
        "hosts_per_rack": hosts_per_rack,
        "oversubscription": oversubscription,
        "slow_host_bandwidth_factor": slow_host_bandwidth_factor,
        "slow_rank_compute_time_factor": slow_rank_compute_time_factor,
        "codec": codec,
        "jitter": jitter,
        "union_exponent": union_exponent,
        "index_encoding": index_encoding,
        "num_steps": num_steps,
    }
    axes = _axes_of({key: _plain(value) for key, value in given.items() if value is not None})
    networks = tuple(base_network(each) for each in axes.network)
    grid = SweepGrid(axes, networks, plain_int("seed", seed, least=0))
    if processes is not None:
        processes = plain_int("processes", processes, least=0)
    folder = None if output is None else Path(output)
    return run_grid(grid, folder, None, processes, observer)


def _axes_of(given: dict[str, object]) -> SweepSection:
    try:
        return SweepSection.model_validate(given)
    except ValidationError as error:
        lines = list(explain_all(error, SweepSection))
        whole = "the file as a whole: "
        raise ValueError("\n".join(line.replace(whole, "sweep: ", 1) for line in lines)) from error


def _plain(value: Any) -> Any:
    """Return arrays, ranges and NumPy's numbers as Python's own."""
    if isinstance(value, range):
        return list(value)
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
