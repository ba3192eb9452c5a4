"""Frames shaped like a sweep's; invented numbers with closed forms, never to be reported."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import pandas as pd

BANDWIDTHS = tuple(12.5e6 * 10 ** (place / 4) for place in range(13))  # 100 Mbit/s to 100 Gbit/s
COMPUTE_S, COMPRESS_S, NUM_BYTES, LATENCY_S = 0.1, 0.02, 100e6, 25e-6
#: Bytes that the busiest rank sends over those of a gradient; steps of a schedule per world size.
TRAFFIC: Mapping[str, Any] = {
    "ring": (lambda n: 2 * (n - 1) / n, lambda n: 2 * (n - 1)),
    "butterfly": (lambda n: 2 * (n - 1) / n, lambda n: 2 * n.bit_length() - 2),
    "parameter-server": (lambda n: n - 1, lambda n: 2),
}


def step_time_s(
    topology: str, world_size: int, density: float, bandwidth: float, latency_s: float = LATENCY_S
) -> float:
    """Return compute + compress + bytes / bandwidth + messages * latency."""
    factor, messages = TRAFFIC[topology]
    sent: float = NUM_BYTES * factor(world_size) * (1.0 if density == 1 else 2 * density)
    codec_s = 0.0 if density == 1 else COMPRESS_S
    waiting_s: float = messages(world_size) * latency_s
    return COMPUTE_S + codec_s + sent / bandwidth + waiting_s


def row(**changes: Any) -> dict[str, Any]:
    """Return one row with the frame's columns; *changes* in place of the defaults."""
    values: dict[str, Any] = {
        "topology": "ring", "world_size": 8, "workload": "resnet50", "network": "star",
        "bandwidth_bytes_per_s": 125e6, "latency_s": LATENCY_S, "density": 1.0,
        "num_bytes": NUM_BYTES, "overlap": False, "bucket_bytes": None, "wire_dtype": "float32",
        "accumulation_steps": 1, "every": 1, "hosts_per_rack": None, "oversubscription": None,
        "slow_host_factor": 1.0, "slow_rank_factor": 1.0, "engine": "bulk", "skipped": None,
    } | changes  # fmt: skip
    if "step_time_s" not in values and not values["skipped"]:
        values["step_time_s"] = step_time_s(
            values["topology"],
            values["world_size"],
            values["density"],
            values["bandwidth_bytes_per_s"],
            values["latency_s"],
        )
    if values.get("step_time_s") is not None:
        values.setdefault("samples_per_s", 32 * values["world_size"] / values["step_time_s"])
        values.setdefault("speedup", values["world_size"] * COMPUTE_S / values["step_time_s"])
        values.setdefault("scaling_efficiency", COMPUTE_S / values["step_time_s"])
        values.setdefault("compress_s", 0.0 if values["density"] == 1 else COMPRESS_S)
    return values


def swept(**axes: Sequence[Any]) -> pd.DataFrame:
    """Return the grid of all values, over what a sweep has by default."""
    varied: dict[str, Sequence[Any]] = {
        "topology": tuple(TRAFFIC),
        "world_size": (4, 16, 64),
        "bandwidth_bytes_per_s": BANDWIDTHS,
        "density": (1.0, 0.01, 0.001),
    } | axes
    cases = product(*varied.values())
    return pd.DataFrame([row(**dict(zip(varied, case, strict=True))) for case in cases])
