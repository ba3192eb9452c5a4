"""Timelines of the ranks' processors before gradients are sent, and factors on compute times.

A rank has one processor.  It compresses a bucket as soon as the backward pass has produced it,
which delays the rest of the backward pass.  It decompresses buckets in their order, when they have
arrived and the processor is free; then it updates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from dgc_topo.arrays import FloatArray
from dgc_topo.simulation.workload import LayerBucket, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """Costs of compressing for a worker's processor.

    Attributes:
        encode_s_per_element: Seconds per compressible element, before sending.
        decode_s_per_element: Seconds per compressible element, after receiving.
        fixed_s: Seconds per step, before sending; shared by the buckets by their elements.

    Raises:
        ValueError: if a cost is negative or not finite.
    """

    encode_s_per_element: float = 0.0
    decode_s_per_element: float = 0.0
    fixed_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("encode_s_per_element", "decode_s_per_element", "fixed_s"):
            if not 0 <= getattr(self, name) < inf:
                raise ValueError(f"codec: {name} {getattr(self, name)}, expected 0 or more")

    def encode_s(self, buckets: Sequence[LayerBucket]) -> FloatArray:
        """Return the seconds of each bucket, shape (num_buckets,)."""
        elements = np.array([bucket.num_elements for bucket in buckets], np.float64)
        share = elements / max(elements.sum(), 1.0) if elements.any() else 1 / len(buckets)
        compressible = np.array([bucket.compressible_elements for bucket in buckets], np.float64)
        return np.asarray(self.encode_s_per_element * compressible + self.fixed_s * share)

    def decode_s(self, buckets: Sequence[LayerBucket]) -> FloatArray:
        """Return the seconds of each bucket, shape (num_buckets,)."""
        compressible = [bucket.compressible_elements for bucket in buckets]
        return self.decode_s_per_element * np.array(compressible, np.float64)


class PeriodFactors(NamedTuple):
    """Factors on each rank's compute time between two exchanges.

    Attributes:
        earlier: Sum over all local steps but the last, shape (world_size,).
        last: Of the last one, same shape.
    """

    earlier: FloatArray
    last: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """Times of each rank's processor before its gradients are sent.

    Attributes:
        start_s: Time at which each rank begins, shape (world_size,).
        factors: Factors on each rank's last computation, shape (world_size,); 0 for servers.
        codec_factors: Factors on its codec, same shape; 0 also for ranks that send nothing.
        begin_s: Begin of the last computation, after all local steps before it, same shape.
        passes_end_s: End of the forward pass before the last backward pass, same shape.
        layer_end_s: End of each layer's backward pass, shape (num_layers, world_size).
        encode_start_s: Begin of compressing a bucket, shape (num_buckets, world_size).
        ready_s: End of it, when the bucket can be sent; same shape.
        updates_s: Seconds of all updates before that, shape (world_size,).
    """

    start_s: FloatArray
    factors: FloatArray
    codec_factors: FloatArray
    begin_s: FloatArray
    passes_end_s: FloatArray
    layer_end_s: FloatArray
    encode_start_s: FloatArray
    ready_s: FloatArray
    updates_s: FloatArray


def compute_timeline(  # noqa: PLR0913 - each has a name
    workload: Workload,
    buckets: Sequence[LayerBucket],
    encode_s: FloatArray,
    factors: PeriodFactors,
    accumulation_steps: int,
    *,
    moves_first: bool = False,
    shares: FloatArray | float = 1.0,
    start_s: FloatArray | float = 0.0,
    codes: FloatArray | float = 1.0,
) -> Timeline:
    """Return each rank's timeline.

    Args:
        workload: Work of one forward and backward pass.
        buckets: Buckets of the workload's layers.
        encode_s: Seconds of each bucket, shape (num_buckets,).
        factors: Factors of each rank.
        accumulation_steps: Passes whose gradients are added up before they are sent; the last
            one may overlap with sending.
        moves_first: True if the last computation's update comes before sending, too.
        shares: Batch of each rank over the workload's, which its passes take as many times as long.
        start_s: Time at which each rank begins.
        codes: 1 for ranks that compress and decompress, 0 for those that send nothing.
    """
    last, update_s = factors.last, workload.update_s
    local_s = accumulation_steps * workload.compute_s * shares + update_s
    start_s = np.zeros_like(last) + start_s
    coding = last * codes
    begin_s = start_s + local_s * factors.earlier
    passes = last * shares
    before_s = (accumulation_steps - 1) * workload.compute_s + workload.forward_s
    ready_s = [layer.ready_s for bucket in buckets for layer in bucket.layers]
    encoded_s = np.cumsum(encode_s)  # by the end of each bucket
    counts = [len(bucket.layers) for bucket in buckets]
    held_up_s = np.repeat(encoded_s - encode_s, counts)
    layer_end_s = np.multiply.outer(before_s + np.array(ready_s), passes)
    layer_end_s += np.multiply.outer(held_up_s, coding) + begin_s
    last_update_s = update_s if moves_first else 0.0
    encode_start_s = layer_end_s[np.cumsum(counts) - 1] + last_update_s * last
    return Timeline(
        start_s,
        last,
        coding,
        begin_s,
        begin_s + before_s * passes,
        layer_end_s,
        encode_start_s,
        encode_start_s + np.multiply.outer(encode_s, coding),
        update_s * factors.earlier + last_update_s * last,
    )


def decode_times(
    end_s: FloatArray, decode_s: FloatArray, timeline: Timeline
) -> tuple[FloatArray, FloatArray]:
    """Return the begin and end of decompressing each bucket, both (num_buckets, world_size).

    Args:
        end_s: Time at which each bucket has arrived, shape (num_buckets, world_size).
        decode_s: Seconds of each bucket, shape (num_buckets,).
        timeline: Times of the processors before sending.
    """
    begins, ends = np.empty_like(end_s), np.empty_like(end_s)
    free_s = timeline.ready_s[-1]
    for bucket, seconds in enumerate(decode_s):
        begins[bucket] = np.maximum(end_s[bucket], free_s)
        free_s = ends[bucket] = begins[bucket] + seconds * timeline.codec_factors
    return begins, ends


@runtime_checkable
class Jitter(Protocol):
    """A distribution of the time of a step's compute over its usual time."""

    def draw(self, generator: np.random.Generator, count: int) -> FloatArray:
        """Return *count* factors, 1 for the usual time."""


@dataclass(frozen=True, slots=True)
class LognormalJitter:
    """Factors whose logarithm is normal, with mean 1.

    Attributes:
        sigma: Standard deviation of the logarithm; small ones are the relative spread.

    Raises:
        ValueError: if *sigma* is negative or not finite.
    """

    sigma: float

    def __post_init__(self) -> None:
        if not 0 <= self.sigma < inf:
            raise ValueError(f"jitter: sigma {self.sigma}, expected 0 or more")

    def draw(self, generator: np.random.Generator, count: int) -> FloatArray:
        """Return *count* factors."""
        return generator.lognormal(-(self.sigma**2) / 2, self.sigma, count)


@dataclass(frozen=True, slots=True)
class TailJitter:
    """Factors of 1, plus an exponential delay with some probability.

    Attributes:
        probability: Probability that a rank is late in a step.
        mean_delay: Mean of the delay, in units of the usual time.

    Raises:
        ValueError: if a number makes no sense.
    """

    probability: float
    mean_delay: float

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"jitter: probability {self.probability}, expected 0 to 1")
        if not 0 <= self.mean_delay < inf:
            raise ValueError(f"jitter: mean_delay {self.mean_delay}, expected 0 or more")

    def draw(self, generator: np.random.Generator, count: int) -> FloatArray:
        """Return *count* factors."""
        late = generator.random(count) < self.probability
        return 1 + late * generator.exponential(self.mean_delay, count)


@dataclass(frozen=True, slots=True)
class ComputeFactors:
    """Factors on each rank's compute time; 1 is the workload's time.

    Attributes:
        slow: Factors of single ranks, 1 for all others; ranks beyond the world are ignored.
        jitter: Distribution drawn for every rank and step, on top of it; None for none.
        seed: Seed of the draws: the same seed and iteration give the same factors.

    Raises:
        ValueError: if a factor is not above 0.
    """

    slow: Mapping[int, float] = field(default_factory=dict)
    jitter: Jitter | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for rank, factor in self.slow.items():
            if rank < 0 or not 0 < factor < inf:
                raise ValueError(
                    f"compute factors: rank {rank} takes {factor} times as long, expected > 0"
                )

    @property
    def varies(self) -> bool:
        """True if steps differ."""
        return self.jitter is not None

    def of_ranks(self, world_size: int, iteration: int = 0) -> FloatArray:
        """Return each rank's factor in a step, shape (world_size,)."""
        factors = np.ones(world_size)
        for rank, factor in self.slow.items():
            if rank < world_size:
                factors[rank] = factor
        if self.jitter is not None:
            generator = np.random.default_rng([self.seed, iteration])
            factors *= self.jitter.draw(generator, world_size)
        return factors

    def of_period(self, world_size: int, period: int, every: int) -> PeriodFactors:
        """Return the factors of *every* steps in a row, drawn one by one.

        Args:
            world_size: Number of ranks.
            period: Number of the period: of the steps from ``period * every`` on.
            every: Number of its steps.
        """
        first = period * every
        last = self.of_ranks(world_size, first + every - 1)
        if not self.varies:
            return PeriodFactors((every - 1) * last, last)
        earlier = np.zeros(world_size)
        for step in range(first, first + every - 1):
            earlier += self.of_ranks(world_size, step)
        return PeriodFactors(earlier, last)
