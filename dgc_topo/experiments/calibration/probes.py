"""The probes of a calibration: point-to-point facts only, from a few bytes to 64 MB."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from dgc_topo.experiments.calibration.cases import Case, DenseBuffer, Probe, ProbeKind, SparseBuffer
from dgc_topo.sizes import FLOAT_BYTES

_KB, _MB = 1000, 1_000_000
_BITS = 8
_FEWEST_HOSTS = 2

_PING_PONG_BYTES = (4, _KB, 4 * _KB, 16 * _KB, 64 * _KB, 256 * _KB, _MB, 4 * _MB, 16 * _MB)
_LARGEST_BYTES = 64 * _MB
_RELAY_BYTES = (4 * _KB, 64 * _KB, _MB)
_OTHER_BYTES = (4 * _KB, 64 * _KB, 256 * _KB, _MB, 8 * _MB)
_SPARSE_ELEMENTS = (100_000, 1_000_000, 4_000_000, 12_000_000, 30_000_000)  #: 1 % sent
_SPARSE_DENSITY = 0.01
_EXCHANGES: tuple[ProbeKind, ...] = ("exchange", "reducing-exchange", "mixing-exchange")

#: Short runs are repeated in a row until they take about this long together.
_BLOCK_S = 0.06
_MOST_RUNS = 40
_GUESSED_S = 300e-6  # per message
_GUESSED_BYTES_PER_S = 1.5e9  # of unshaped links


def probes(num_hosts: int, rate_bits_per_s: float | None) -> list[Case]:
    """Return the probes for links of a rate; None is unshaped.

    Args:
        num_hosts: Hosts there are; at least 2.
        rate_bits_per_s: Decides how often short ones are repeated.

    Raises:
        ValueError: if there are fewer hosts.
    """
    if num_hosts < _FEWEST_HOSTS:
        raise ValueError(f"calibration: {num_hosts} hosts, expected at least {_FEWEST_HOSTS}")
    return list(_probes(num_hosts, rate_bits_per_s))


def _probes(num_hosts: int, rate: float | None) -> Iterator[Case]:
    for num_bytes in (*_PING_PONG_BYTES, _LARGEST_BYTES):
        yield _dense("ping-pong", 2, num_bytes, rate, messages=2)
    fans = [peers + 1 for peers in sorted({2, 4, num_hosts - 1}) if 1 < peers < num_hosts]
    for num_bytes, size in product(_RELAY_BYTES, fans):
        yield _dense("relay", size, num_bytes, rate, messages=size)
    for num_bytes in _OTHER_BYTES:
        for kind in _EXCHANGES:
            yield _dense(kind, 2, num_bytes, rate)
        for size in fans:
            yield _dense("incast", size, num_bytes, rate)
            yield _dense("fan-out", size, num_bytes, rate)
        yield _dense("reducing-incast", fans[-1] if fans else 2, num_bytes / 4, rate)
        for size in (size for size in (4, 8, 16, 32, 64) if size <= num_hosts):
            yield _dense("pairs", size, num_bytes, rate)
    # What a run costs once, and what each of its steps does, where nobody ever sleeps.
    for num_bytes, size in product(_RELAY_BYTES, sorted({2, num_hosts - num_hosts % 2})):
        yield _dense("rallying-pairs", size, num_bytes, rate, messages=8)
    yield from _sparse(num_hosts)


def _sparse(num_hosts: int) -> Iterator[Case]:
    """Yield what tells the cost of coding and of adding: one after the other, and all at once.

    Each by itself, as a training step has it, when caches are cold.
    """
    some: list[tuple[ProbeKind, int]] = [("ping-pong", 2), ("rally", 2), ("reducing-incast", 2)]
    if num_hosts > _FEWEST_HOSTS:
        some.append(("reducing-incast", min(4, num_hosts)))  # entries of three places are sorted
    crowd = num_hosts - num_hosts % 2
    if crowd > _FEWEST_HOSTS:
        some += [("pairs", crowd), ("reducing-pairs", crowd)]
    for num_elements, (kind, size) in product(_SPARSE_ELEMENTS, some):
        buffer = SparseBuffer(num_elements=num_elements, density=_SPARSE_DENSITY)
        yield Case(pattern=Probe(kind=kind), world_size=size, buffer=buffer, runs=1)


def _dense(
    kind: ProbeKind, world_size: int, num_bytes: float, rate: float | None, messages: int = 1
) -> Case:
    halves = 2 if kind in {*_EXCHANGES, "pairs", "rallying-pairs"} else 1
    buffer = DenseBuffer(num_elements=max(1, int(halves * num_bytes / FLOAT_BYTES)))
    runs = runs_in_a_row(messages, num_bytes, rate)
    return Case(pattern=Probe(kind=kind), world_size=world_size, buffer=buffer, runs=runs)


def runs_in_a_row(messages: int, num_bytes: float, rate_bits_per_s: float | None) -> int:
    """Return how many runs of so many messages in sequence make up a block worth timing."""
    bandwidth = _GUESSED_BYTES_PER_S if rate_bits_per_s is None else rate_bits_per_s / _BITS
    one_s = messages * (_GUESSED_S + num_bytes / bandwidth)
    return max(1, min(_MOST_RUNS, round(_BLOCK_S / one_s)))
