"""Encodings of gradients in simulated messages: dense, or a fraction with indices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Any, Literal, Protocol

import numpy as np

from dgc_topo.arrays import FloatArray, IntArray
from dgc_topo.schedule import Schedule
from dgc_topo.schedule.completion import Merge
from dgc_topo.simulation.placed_sizes import placed_sizes
from dgc_topo.simulation.step_sizes import Sizes
from dgc_topo.simulation.transfer_sizes import DenseSizes, UnionSizes, sections_per_chunk
from dgc_topo.simulation.unions import Growth, independent_growth, power_growth, recorded_growth
from dgc_topo.simulation.workload import LayerBucket
from dgc_topo.sizes import FLOAT_BYTES, count_entries, entries_of
from dgc_topo.wire.coding import EntryCoding, WireCoding

#: Function from a bucket's length and one worker's entries to the bucket's union model.
UnionRule = Callable[[int, float], Growth]


def power_rule(union_exponent: float) -> UnionRule:
    """Return the rule of `power_growth`: 1 for disjoint supports, 0 for identical ones."""
    return partial(power_growth, union_exponent=union_exponent)


def recorded_rule(points: Sequence[tuple[int, float]]) -> UnionRule:
    """Return the rule of `recorded_growth`: a recorded run's unions, interpolated."""
    return partial(recorded_growth, points=tuple(points))


class Encoding(Protocol):
    """Sizes of the messages that carry a bucket."""

    def own_bytes(self, bucket: LayerBucket) -> float:
        """Return the bytes of one worker's own part."""

    def passes(self, bucket: LayerBucket, schedule: Schedule) -> tuple[Sizes, ...]:
        """Return the bytes of every transfer of *schedule*, for each time that it is run."""


@dataclass(frozen=True, slots=True)
class DenseEncoding:
    """Encoding that sends every element.

    Attributes:
        bytes_per_element: 4 for float32, 2 for float16.
        vectors: Numbers sent per element: 2 where momentum travels beside the parameters.
        extra_elements: Numbers beside them, such as push-sum's weight.

    Raises:
        ValueError: if a number makes no sense.
    """

    bytes_per_element: float = FLOAT_BYTES
    vectors: int = 1
    extra_elements: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.bytes_per_element < inf:
            raise ValueError(f"encoding: bytes_per_element {self.bytes_per_element}, expected > 0")
        if self.vectors < 1 or self.extra_elements < 0:
            raise ValueError(
                f"encoding: vectors {self.vectors}, extra_elements {self.extra_elements}, expected "
                "at least 1 and 0"
            )

    def own_bytes(self, bucket: LayerBucket) -> float:
        """Return the bytes of the bucket."""
        numbers = self.vectors * bucket.num_elements + self.extra_elements
        return self.bytes_per_element * numbers

    def passes(self, bucket: LayerBucket, schedule: Schedule) -> tuple[Sizes, ...]:
        """Return equal slices."""
        return (DenseSizes(self.own_bytes(bucket), schedule.num_chunks),)


@dataclass(frozen=True, slots=True)
class SparseEncoding:
    """Encoding that sends a fraction of the compressible elements, and all other tensors dense.

    Attributes:
        density: Fraction of the compressible elements that a worker sends.
        coding: Coding of messages of entries; real ones by default.
        dense_element_bytes: Bytes of each element that travels dense.
        union: Growth of unions: `independent_growth`, a `power_rule` or a `recorded_rule`.
        scope: ``layer`` if each tensor sends its own share (whole entries, at least one); ``model``
            if all tensors of a bucket send one share together; ``measured`` if *density* is the
            mean fraction that a run sent.
        merge: Policy of the sums, see `UnionSizes`.
        balance: True if exact sums take two passes, see `placed_sizes`.

    Raises:
        ValueError: if a number makes no sense.
    """

    density: float
    coding: EntryCoding = field(default_factory=WireCoding)
    dense_element_bytes: float = FLOAT_BYTES
    union: UnionRule = field(default=independent_growth)
    scope: Literal["layer", "model", "measured"] = "layer"
    merge: Merge = "union"
    balance: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise ValueError(f"encoding: density {self.density}, expected above 0, up to 1")
        if not 0 < self.dense_element_bytes < inf:
            raise ValueError(
                f"encoding: dense_element_bytes {self.dense_element_bytes}, expected above 0"
            )

    def entries(self, bucket: LayerBucket) -> float:
        """Return the entries that one worker sends of a bucket."""
        match self.scope:
            case "layer":
                return float(count_entries(bucket.tensor_sizes, self.density))
            case "model":
                return float(entries_of(bucket.compressible_elements, self.density))
            case "measured":
                length = float(bucket.compressible_elements)
                return min(max(1.0, self.density * length), length)

    def own_bytes(self, bucket: LayerBucket) -> float:
        """Return the bytes of one worker's entries and dense elements, as one message."""
        return float(self.message_bytes(bucket, 1, np.ones(1, np.int64), np.ones(1, np.int64))[0])

    def message_bytes(
        self, bucket: LayerBucket, num_chunks: int, contributors: IntArray, count: IntArray
    ) -> FloatArray:
        """Return the bytes of chunks of the union, with their share of the dense elements."""
        share = np.asarray(count / num_chunks, np.float64)
        total = share * self._dense_bytes(bucket)
        length = bucket.compressible_elements
        if length:
            merged = self.union(length, self.entries(bucket))(contributors)
            each = sections_per_chunk(length, bucket.tensor_sizes, num_chunks)
            sections = np.asarray(count * each, np.float64)
            total += self.coding.expected_bytes(share * length, share * merged, sections)
        return total

    def passes(self, bucket: LayerBucket, schedule: Schedule) -> tuple[Sizes, ...]:
        """Return unions that grow with the contributors merged; of places first, if balanced."""
        dense_bytes = self._dense_bytes(bucket)
        length, entries = bucket.compressible_elements, self.entries(bucket)
        if not length:
            return (DenseSizes(dense_bytes, schedule.num_chunks),)
        facts: dict[str, Any] = {
            "length": length,
            "entries": entries,
            "coding": self.coding,
            "dense_bytes": dense_bytes,
            "growth": self.union(length, entries),
            "layer_sizes": bucket.tensor_sizes,
        }
        if self.balance and self.merge == "union":
            return placed_sizes(schedule, **facts)
        return (UnionSizes(schedule, **facts, merge=self.merge),)

    def _dense_bytes(self, bucket: LayerBucket) -> float:
        return self.dense_element_bytes * bucket.dense_elements
