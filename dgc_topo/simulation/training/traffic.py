"""Bytes of a training step by sender and receiver."""

from __future__ import annotations

from collections import Counter

from dgc_topo.schedule import Schedule
from dgc_topo.simulation.step_sizes import checked_sizes
from dgc_topo.simulation.training.engine import TrainingStep
from dgc_topo.simulation.transfer_sizes import fit_sizes


def bytes_per_edge(step: TrainingStep, schedule: Schedule) -> dict[tuple[int, int], float]:
    """Return the bytes that each rank sends to each other per training step.

    Args:
        step: Work of a worker; each pass of its buckets runs the schedule once.
        schedule: Schedule of every bucket.

    Returns:
        Bytes by sender and receiver; with local steps, the share of one of them.
    """
    sent: Counter[tuple[int, int]] = Counter()
    for bucket in step.buckets:
        for given in step.encoding.passes(bucket, schedule):
            sizes = fit_sizes(given, schedule)
            for index, each in enumerate(schedule.steps()):
                num_bytes = checked_sizes(sizes, index, each).num_bytes
                for src, dst, size in zip(each.src, each.dst, num_bytes, strict=True):
                    sent[int(src), int(dst)] += float(size)  # type: ignore[assignment]
    return {edge: size / step.every for edge, size in sent.items()}
