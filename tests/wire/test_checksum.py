"""The checksum is what FORMAT.md says, and finds what it is sure to find."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dgc_topo.wire.body import packed_bytes
from dgc_topo.wire.checksum import PRIME, ROW, few_word_sums, word_sums
from dgc_topo.wire.format import Header
from dgc_topo.wire.header import _LAYOUT, _seal_on_device, _seeds, seal
from dgc_topo.wire.indices import pack_bits, pack_plane, set_places, unpack_bits, unpack_flags
from dgc_topo.wire.limits import HEADER_BYTES
from tests.wire import reference

LENGTH = 1000


def message(size: int, seed: int = 0) -> bytes:
    body = random.Random(seed).randbytes(size - 12)
    return reference.sealed(bytes([0xDC, 1, 1, 0, *8 * [0]]) + body, LENGTH)


@pytest.mark.parametrize(
    "count", [0, 1, 5, ROW - 1, ROW, ROW + 1, 3 * ROW, 32 * ROW, 70 * ROW + 17, 300 * ROW]
)
@pytest.mark.parametrize("kind", ["random", "least", "most"])
def test_sums_are_the_sums(count: int, kind: str):
    words = torch.randint(-(2**31), 2**31, (count,), dtype=torch.int32)
    if kind != "random":
        words.fill_(-(2**31) if kind == "least" else 2**31 - 1)
    exact = [int(word) for word in words.tolist()]
    expected = [sum(exact), sum(place * word for place, word in enumerate(exact, 1))]
    assert [found % PRIME for found in word_sums(words).tolist()] == [e % PRIME for e in expected]
    if count <= ROW:
        assert list(few_word_sums(words.numpy())) == expected


@pytest.mark.parametrize("size", [12, 13, 16, 100, 4 * ROW + 12, 4 * ROW + 16, 100_000])
def test_a_gpu_would_seal_with_the_same_numbers(size: int):
    body = random.Random(size).randbytes(size - 12)
    raw = bytearray(12) + body + bytes(-size % 4)
    ours, theirs = (torch.frombuffer(bytearray(raw), dtype=torch.int32) for _ in range(2))
    seal(ours, Header("bit-packed", "float16", 7), size, LENGTH)
    first = int.from_bytes(ours.view(torch.uint8)[:4].numpy().tobytes(), "little")
    _seal_on_device(theirs, first, _seeds(first, LENGTH, size))
    assert torch.equal(ours, theirs)
    whole = ours.view(torch.uint8)[:size].numpy().tobytes()
    assert whole == reference.sealed(whole, LENGTH)


@pytest.mark.parametrize("size", [12, 13, 14, 15, 40, 57])
def test_every_burst_of_up_to_31_bits_is_found(size: int):
    """Every first bit and length, with all bits between flipped, and some at random."""
    original = int.from_bytes(message(size), "little")
    rng = random.Random(size)
    for first in range(8 * size):
        for length in range(1, min(31, 8 * size - first) + 1):
            ends = 1 | 1 << length - 1
            for pattern in ((1 << length) - 1, ends | rng.getrandbits(length)):
                damaged = (original ^ pattern << first).to_bytes(size, "little")
                assert damaged[4:12] != reference.checksum(damaged, LENGTH)


def test_every_two_flipped_bits_are_found():
    """Also the same bit of words far from each other, where a sum modulo 2**32 finds none."""
    size = 24
    original = int.from_bytes(message(size), "little")
    for first in range(8 * size):
        for second in range(first):
            damaged = (original ^ (1 << first | 1 << second)).to_bytes(size, "little")
            assert damaged[4:12] != reference.checksum(damaged, LENGTH)
    words = torch.zeros(2 * ROW + 1, dtype=torch.int32)
    before = word_sums(words) % PRIME
    for distance in (1, 2, 2**10, 2**12, 2**13):
        for bit in (-(2**31), 2**30):
            words.zero_()
            words[0], words[distance] = bit, -bit if bit > 0 else bit
            assert not torch.equal(word_sums(words) % PRIME, before)


def test_the_modulus_is_the_largest_prime_of_32_bits():
    assert all(PRIME % divisor for divisor in range(2, 2**16))
    assert all(any(n % d == 0 for d in range(2, 2**16)) for n in range(PRIME + 1, 2**32))


@given(st.integers(1, 15), st.lists(st.integers(0, 2**15 - 1), max_size=70))
def test_unpack_inverts_pack(width: int, numbers: list[int]):
    given_numbers = torch.tensor(numbers, dtype=torch.int64) & ((1 << width) - 1)
    packed = torch.full((packed_bytes(len(numbers), width),), 255, dtype=torch.uint8)
    pack_bits(given_numbers, width, packed)
    assert torch.equal(unpack_bits(packed, len(numbers), width), given_numbers)
    raw = packed.numpy().tobytes()
    assert reference.numbers(raw, len(numbers), width) == given_numbers.tolist()


@given(st.integers(1, 30), st.data())
def test_unpack_plane_inverts_pack_plane(num_bytes: int, data: st.DataObject):
    places = sorted(data.draw(st.sets(st.integers(0, 8 * num_bytes - 1))))
    plane = torch.full((num_bytes,), 255, dtype=torch.uint8)
    pack_plane(torch.tensor(places, dtype=torch.int64), plane)
    assert set_places(unpack_flags(plane)).tolist() == places
    flags = np.unpackbits(plane.numpy(), bitorder="little")
    assert flags.nonzero()[0].tolist() == places


def test_the_header_is_as_long_as_sizes_say():
    assert _LAYOUT.size == HEADER_BYTES == 12
