"""Simulation of training steps: gradients become ready, buckets are sent, ranks differ in speed.

Start at `simulate_step`; below it, `simulate_training_step` runs one `TrainingStep`.  Read
`dgc_topo.simulation.workload` (when gradients are ready), then `timeline` (a rank's processor),
`stream` (buckets on the network) and `engine`.
"""

from dgc_topo.simulation.training.encoding import (
    DenseEncoding,
    Encoding,
    SparseEncoding,
    UnionRule,
    power_rule,
    recorded_rule,
)
from dgc_topo.simulation.training.engine import TrainingStep, simulate_training_step
from dgc_topo.simulation.training.result import SimulatedTraffic, StepPhases, StepRun
from dgc_topo.simulation.training.simulation import simulate_step
from dgc_topo.simulation.training.step_simulation import StepSimulation
from dgc_topo.simulation.training.timeline import (
    Codec,
    ComputeFactors,
    Jitter,
    LognormalJitter,
    TailJitter,
)
from dgc_topo.simulation.training.trace import Span, spans_of, write_chrome_trace
from dgc_topo.simulation.workload import LayerBucket, ReadyLayer, Workload, fill_buckets

__all__ = [
    "Codec",
    "ComputeFactors",
    "DenseEncoding",
    "Encoding",
    "Jitter",
    "LayerBucket",
    "LognormalJitter",
    "ReadyLayer",
    "SimulatedTraffic",
    "Span",
    "SparseEncoding",
    "StepPhases",
    "StepRun",
    "StepSimulation",
    "TailJitter",
    "TrainingStep",
    "UnionRule",
    "Workload",
    "fill_buckets",
    "power_rule",
    "recorded_rule",
    "simulate_step",
    "simulate_training_step",
    "spans_of",
    "write_chrome_trace",
]
