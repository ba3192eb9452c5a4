"""Assumptions behind an advice, a sentence each."""

from __future__ import annotations

from collections.abc import Iterator

from dgc_topo.experiments.advice.sources import CostedWork
from dgc_topo.experiments.advice.ways import MOST_RANKS
from dgc_topo.network.calibrated import CalibratedNetwork
from dgc_topo.network.cluster import Cluster
from dgc_topo.network.fabrics import Fabric
from dgc_topo.units import rate_text, seconds_text


def assumptions_of(
    work: CostedWork,
    cluster: Cluster,
    fabric: Fabric | None,
    calibration: CalibratedNetwork | None,
    *,
    overlap: bool,
    has_references: bool,
) -> Iterator[str]:
    """Yield what the numbers rest on.

    Args:
        work: Work of one worker.
        cluster: Ranks on a network.
        fabric: Fabric between its hosts, if it is one.
        calibration: Calibration that the cluster was made from, if it was.
        overlap: True if gradients are sent while the backward pass goes on.
        has_references: True if there are ways of others beside ours, such as PowerSGD.
    """
    workload = work.workload
    yield f"a worker computes for {seconds_text(workload.compute_s)} per step: {workload.source}"
    rate = ""
    if fabric is not None:
        rate = f" at {rate_text(8 * fabric.bandwidth_bytes_per_s)} ({fabric.source})"
    if calibration is not None:
        made = calibration.created.astimezone()
        rate = f", as calibrated on {made:%Y-%m-%d} ({calibration.machine})"
    yield f"the network is {cluster.name}{rate}"
    if cluster.network.slots_per_host > 1:
        yield "GPUs of one machine share its port; NVLink joins them, unless a network file says"
    left_out = [name for name, most in MOST_RANKS.items() if most < cluster.num_ranks]
    if left_out:
        yield f"not considered with so many workers: {', '.join(left_out)}"
    when = "while the backward pass goes on" if overlap else "after the backward pass"
    yield f"gradients travel {when}"
    yield f"compressing costs {work.codec_source}"
    yield (
        "ways that average every so many steps are other algorithms (docs/averaging.md), and "
        "reselect prunes sums (docs/sparse-sums.md)"
    )
    yield (
        "workers choose their elements independently of each other; real ones choose some alike, "
        "and sums of them are smaller"
    )
    if has_references:
        yield (
            "PowerSGD is a reference: its bytes are counted, its arithmetic and its accuracy are "
            "not"
        )
    known = "" if fabric is None else ", and this one is published; --probe measures yours"
    yield f"intervals hold 90 % of what validations measured on calibrated networks{known}"
