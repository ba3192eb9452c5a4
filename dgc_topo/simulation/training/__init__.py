"""The training step in simulated time: gradients become ready, buckets are sent, ranks differ.

The way in is `simulate_step` with a `TrainingStep`.  Read `profile` (what is ready when), then
`timeline` (what a rank's processor does), `stream` (buckets on the network) and `step`.
"""

from dgc_topo.simulation.training.pace import Jitter, LognormalJitter, Pace, TailJitter
from dgc_topo.simulation.training.payload import (
    DensePayload,
    Payload,
    SparsePayload,
    UnionRule,
    overlapping,
    replayed,
)
from dgc_topo.simulation.training.profile import Bucket, Profile, ReadyLayer, fill_buckets
from dgc_topo.simulation.training.result import StepPhases, StepResult, Traffic
from dgc_topo.simulation.training.step import TrainingStep, simulate_step
from dgc_topo.simulation.training.timeline import Codec
from dgc_topo.simulation.training.trace import Span, spans_of, write_chrome_trace

__all__ = [
    "Bucket",
    "Codec",
    "DensePayload",
    "Jitter",
    "LognormalJitter",
    "Pace",
    "Payload",
    "Profile",
    "ReadyLayer",
    "Span",
    "SparsePayload",
    "StepPhases",
    "StepResult",
    "TailJitter",
    "Traffic",
    "TrainingStep",
    "UnionRule",
    "fill_buckets",
    "overlapping",
    "replayed",
    "simulate_step",
    "spans_of",
    "write_chrome_trace",
]
