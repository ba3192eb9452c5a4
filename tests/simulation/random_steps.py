"""Random training steps, as hypothesis strategies."""

from __future__ import annotations

from dataclasses import dataclass, replace

import hypothesis.strategies as st
import numpy as np

from dgc_topo.schedule import Schedule
from dgc_topo.simulation import independent_growth
from dgc_topo.simulation.training import (
    Codec,
    ComputeFactors,
    DenseEncoding,
    Encoding,
    LayerBucket,
    LognormalJitter,
    ReadyLayer,
    SparseEncoding,
    TailJitter,
    TrainingStep,
    Workload,
    power_rule,
)
from tests.simulation.random_clusters import SEEDS
from tests.simulation.random_schedules import free


@dataclass(frozen=True)
class InTurn:
    """Schedules that the buckets of a step take in turn."""

    step: TrainingStep
    schedules: tuple[Schedule, ...]

    def __call__(self, bucket: LayerBucket) -> Schedule:
        return self.schedules[self.step.buckets.index(bucket) % len(self.schedules)]


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    """A few layers, some without elements, some ready at the same time."""
    rng = np.random.default_rng(draw(SEEDS))
    num_layers = draw(st.integers(1, 4))
    ready_s = np.sort(rng.integers(0, 12, num_layers)) / 4
    sizes = rng.choice([0, 1, 40, 400], (num_layers, 2))
    layers = tuple(
        ReadyLayer(f"layer {number}", at_s, (int(sparse),), int(dense))
        for number, (at_s, (sparse, dense)) in enumerate(zip(ready_s.tolist(), sizes, strict=True))
    )
    return Workload(float(rng.integers(0, 3)), layers, update_s=float(rng.integers(0, 2)) / 8)


def encodings() -> st.SearchStrategy[Encoding]:
    return st.one_of(
        st.builds(DenseEncoding, st.sampled_from([4.0, 2.0])),
        st.builds(
            SparseEncoding,
            st.sampled_from([0.1, 0.01, 1.0]),
            union=st.sampled_from([independent_growth, power_rule(0.5)]),
            scope=st.sampled_from(["layer", "model", "measured"]),
        ),
    )


@st.composite
def training_steps(draw: st.DrawFn) -> TrainingStep:
    codec = draw(st.sampled_from([Codec(), Codec(fixed_s=0.125, decode_s_per_element=1e-3)]))
    slow = draw(st.sampled_from([{}, {0: 1.5}, {1: 0.5, 3: 4.0}]))
    jitter = draw(st.sampled_from([None, LognormalJitter(0.25), TailJitter(0.5, 1.0)]))
    bucket_bytes = draw(st.sampled_from([500.0, None, 1.0, 2000.0]))
    local = bucket_bytes is None and draw(st.booleans())
    return TrainingStep(
        workload=draw(workloads()),
        encoding=draw(encodings()),
        codec=codec,
        bucket_bytes=bucket_bytes,
        accumulation_steps=draw(st.integers(1, 2)),
        compute_factors=ComputeFactors(slow, jitter),
        every=draw(st.integers(1, 5)) if local else 1,
        moves_first=local and draw(st.booleans()),
    )


@st.composite
def steps_on(draw: st.DrawFn, schedules: st.SearchStrategy[Schedule]) -> InTurn:
    """A training step with one schedule, or with buckets that are sent in different ways."""
    first = draw(schedules)
    given = [first]
    if draw(st.integers(0, 3)) == 3:
        given.append(replace(draw(free(first.world_size, 3)), servers=first.servers))
    return InTurn(draw(training_steps()), tuple(given))
