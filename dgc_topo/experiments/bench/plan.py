"""What a benchmark of collectives is to measure, and in which steps of size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field

from dgc_topo.plugins import known_topologies
from dgc_topo.topology import OptionValue, Topology, load_topology
from dgc_topo.units import bytes_from

GLOO = "gloo"  #: `torch.distributed.all_reduce`
ELEMENT_BYTES = 4
_STEP = 10
_MAX_BYTES = 2**34
_MIN_ROUNDS, _MAX_ROUNDS = 3, 100

#: Options that make another algorithm of a topology, beside its defaults.
_VARIANTS: Mapping[str, Sequence[Mapping[str, OptionValue]]] = {
    "butterfly": [{"algorithm": "doubling"}],
    "ring": [{"segments": 2}, {"segments": 4}],
}


class Plan(BaseModel):
    """One measurement, for one world size."""

    model_config = ConfigDict(frozen=True)

    topologies: list[Topology]
    sizes: list[int] = Field(description="bytes of the buffer")
    stream_bytes: int = Field(description="bytes of the one-way stream")
    budget_s: float = Field(description="seconds that the rounds of one size are to take")
    slowest: float = Field(description="a way that takes so many times as long as Gloo runs once")

    def num_rounds(self, round_s: float) -> int:
        """Return how often each way runs when a round of all takes *round_s*."""
        return max(_MIN_ROUNDS, min(_MAX_ROUNDS, int(self.budget_s / round_s)))


def sizes_from(text: str) -> list[int]:
    """Return the bytes of every buffer, ascending.

    Args:
        text: Sizes such as ``1kB,1MB``, or ``1kB:40MB`` for steps of a factor 10 from the first
            one on, and the last.

    Raises:
        ValueError: if that is not what it is, or a size is no number of float32.
    """
    sizes: set[int] = set()
    for part in text.split(","):
        low, colon, high = part.partition(":")
        size = _size(low)
        last = _size(high) if colon else size
        if last < size:
            raise ValueError(f"--sizes {part!r}: expected the smaller size first")
        while size < last:
            sizes.add(size)
            size *= _STEP
        sizes.add(last)
    return sorted(sizes)


def _size(text: str) -> int:
    size = bytes_from(text, "--sizes")
    if not 0 < size <= _MAX_BYTES or size % ELEMENT_BYTES:
        raise ValueError(
            f"--sizes {text!r}: expected a multiple of {ELEMENT_BYTES} bytes, above 0 and at most "
            f"{_MAX_BYTES}"
        )
    return int(size)


def topologies_from(texts: Sequence[str], world_size: int) -> list[Topology]:
    """Return the topologies called ``name`` or ``name:key=value,key=value``.

    Args:
        texts: Empty for all installed ones that are all-reduces of all their ranks.
        world_size: Number of ranks.

    Raises:
        ValueError: if one is unknown, can't run, or isn't an all-reduce of all its ranks.
    """
    if not texts:
        everything = [
            load_topology(name, options)
            for name in known_topologies()
            for options in ({}, *_VARIANTS.get(name, ()))
        ]
        return [topology for topology in everything if _sums(topology, world_size)]
    chosen = [load_topology(text) for text in texts]
    for topology in chosen:
        if not _sums(topology, world_size):
            raise ValueError(
                f"--topology {topology.label}: expected an all-reduce of all its ranks"
            )
    return chosen


def _sums(topology: Topology, world_size: int) -> bool:
    schedule = topology.schedule(world_size)
    return schedule.goal == "all-reduce" and not schedule.servers
