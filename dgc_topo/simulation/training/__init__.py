"""The training step in simulated time: gradients become ready, buckets are sent, ranks differ.

The way in is `simulate_training_step` with a `TrainingStep`.  Read `profile` (what is ready when),
then `timeline` (what a rank's processor does), `stream` (buckets on the network) and `step`.
"""

from dgc_topo.simulation.training.encoding import (
    DenseEncoding,
    Encoding,
    SparseEncoding,
    UnionRule,
    power_rule,
    recorded_rule,
)
from dgc_topo.simulation.training.profile import Bucket, Profile, ReadyLayer, fill_buckets
from dgc_topo.simulation.training.result import StepPhases, StepRun, StepTraffic
from dgc_topo.simulation.training.step import TrainingStep, simulate_training_step
from dgc_topo.simulation.training.timeline import (
    Codec,
    ComputeFactors,
    Jitter,
    LognormalJitter,
    TailJitter,
)
from dgc_topo.simulation.training.trace import Span, spans_of, write_chrome_trace

__all__ = [
    "Bucket",
    "Codec",
    "ComputeFactors",
    "DenseEncoding",
    "Encoding",
    "Jitter",
    "LognormalJitter",
    "Profile",
    "ReadyLayer",
    "Span",
    "SparseEncoding",
    "StepPhases",
    "StepRun",
    "StepTraffic",
    "TailJitter",
    "TrainingStep",
    "UnionRule",
    "fill_buckets",
    "power_rule",
    "recorded_rule",
    "simulate_training_step",
    "spans_of",
    "write_chrome_trace",
]
