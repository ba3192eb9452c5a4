"""No bytes crash the decoder, hold it up, or are taken for what they are not."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch

from dgc_topo.wire.coding import WIRE_DTYPES, WireCoding, encodings_of
from dgc_topo.wire.decoding import decode
from dgc_topo.wire.encoding import encode
from dgc_topo.wire.format import WireError
from tests.wire import reference

START = 1000
LENGTHS = [0, 1, 2, 7, 8, 9, 31, 64, 100, 1000, 65_536, 70_000, 200_000, 2**31]

Bytes = np.ndarray


def outcome(message: Bytes, length: int) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return what a message decodes to, None if it is refused; anything else is a crash."""
    try:
        return decode(torch.from_numpy(message.copy()), START, length)
    except WireError:
        return None


def corpus(rng: np.random.Generator) -> list[tuple[Bytes, int]]:
    """Return valid messages of every encoding and type, with the lengths of their runs."""
    messages = []
    for length in LENGTHS:
        for count in {min(length, n) for n in (0, 1, 3, 8, 13)}:
            places = np.unique(rng.integers(0, max(length, 1), count))
            indices = torch.from_numpy(places) + START
            values = torch.from_numpy(rng.standard_normal(len(indices)).astype(np.float32))
            for dtype in WIRE_DTYPES:
                for encoding in encodings_of(dtype):
                    if encoding in {"dense", "bitmap"} and length > 100:
                        continue
                    message = encode(indices, values, START, length, WireCoding(encoding, dtype))
                    messages.append((message.numpy(), length))
    return messages


def damaged(
    rng: np.random.Generator, messages: list[tuple[Bytes, int]]
) -> Iterator[tuple[Bytes, int]]:
    """Yield messages with something wrong, and no corrected checksum."""
    while True:
        (message, length), (other, _) = (messages[i] for i in rng.integers(0, len(messages), 2))
        kind, size = rng.integers(0, 6), len(message)
        if kind == 0:
            yield message[: rng.integers(0, size)], length
        elif kind == 1:
            yield np.append(message, rng.integers(0, 256, rng.integers(1, 9), np.uint8)), length
        elif kind == 2:
            flipped = message.copy()
            for bit in rng.integers(0, 8 * size, rng.integers(1, 4)):
                flipped[bit // 8] ^= 1 << (bit % 8)
            yield flipped, length
        elif kind == 3:
            cut = rng.integers(1, size + 1)
            yield np.concatenate([message[:cut], other[rng.integers(0, len(other)) :]]), length
        elif kind == 4:
            yield rng.integers(0, 256, rng.integers(0, 60), np.uint8), length
        else:
            yield message, length + rng.integers(1, 5)


def test_no_damage_goes_unnoticed():
    rng = np.random.default_rng(0)
    messages = corpus(rng)
    valid = {(message.tobytes(), length) for message, length in messages}
    stream = damaged(rng, messages)
    for _ in range(70_000):
        message, length = next(stream)
        refused = outcome(message, int(length)) is None
        assert refused or (message.tobytes(), length) in valid


def another_kind(rng: np.random.Generator, message: Bytes) -> Bytes:
    message[1] = rng.integers(1, 3)
    message[2] = rng.integers(0, 7) | rng.integers(0, 7) << 4
    return message


def another_parameter(rng: np.random.Generator, message: Bytes) -> Bytes:
    low_bits = [0, 1, 2, 5, 8, 15, 16, 17, 24, 31]
    message[3] = rng.choice(low_bits) | rng.choice([0, 0, 32, 64, 96, 128, 160, 224])
    return message


def shorter(rng: np.random.Generator, message: Bytes) -> Bytes:
    return message[: rng.integers(12, len(message) + 1)]


def longer(rng: np.random.Generator, message: Bytes) -> Bytes:
    return np.append(message, rng.integers(0, 256, rng.integers(1, 9), np.uint8))


def another_byte(rng: np.random.Generator, message: Bytes) -> Bytes:
    if len(message) > 12:
        message[rng.integers(12, len(message))] = rng.choice([0, 1, 127, 128, 254, 255])
    return message


def another_count(rng: np.random.Generator, message: Bytes) -> Bytes:
    """Say another number of entries: one more or less, none, or the most that fit."""
    size = min((int(message[3]) >> 5) + 1, 4)
    if len(message) >= 12 + size:
        count = int.from_bytes(message[-size:].tobytes(), "little") + int(rng.choice([-1, 1, -256]))
        count = int(rng.choice([max(count, 0) % 256**size, 0, 256**size - 1]))
        message[-size:] = np.frombuffer(count.to_bytes(size, "little"), np.uint8)
    return message


def another_number(rng: np.random.Generator, message: Bytes) -> Bytes:
    number = int(rng.choice([0, 1, 65_535, 2**31 - 1, 2**32 - 1])).to_bytes(4, "little")
    if len(message) > 16:
        at = rng.integers(12, len(message) - 3)
        message[at : at + 4] = np.frombuffer(number, np.uint8)
    return message


LIES = [
    another_kind,
    another_parameter,
    shorter,
    longer,
    another_byte,
    another_number,
    another_count,
]


def lying(
    rng: np.random.Generator, messages: list[tuple[Bytes, int]]
) -> Iterator[tuple[Bytes, int]]:
    """Yield messages whose checksum is right, and the rest perhaps not."""
    while True:
        original, length = messages[rng.integers(0, len(messages))]
        message = original.copy()
        for lie in rng.integers(0, len(LIES) + 1, rng.integers(1, 3)):
            if lie < len(LIES):
                message = LIES[lie](rng, message)
            else:
                length = int(rng.choice(LENGTHS))
        yield np.frombuffer(reference.sealed(message.tobytes(), length), np.uint8), length


def test_with_a_right_checksum_the_rest_is_checked_as_the_specification_says():
    """Whatever is accepted means what a second implementation reads in it; the rest is refused."""
    rng = np.random.default_rng(1)
    stream = lying(rng, corpus(rng))
    accepted = 0
    for _ in range(40_000):
        message, length = next(stream)
        found = outcome(message, length)
        try:
            expected = reference.decode(message.tobytes(), length)
        except reference.RefusedError:
            assert found is None, (message.tobytes().hex(), length)
            continue
        assert found is not None, (message.tobytes().hex(), length)
        accepted += 1
        indices, values = found[0].numpy(), found[1].numpy()
        assert (indices - START).tolist() == expected[0]
        assert np.array_equal(values, expected[1], equal_nan=True)
        assert all(a < b for a, b in pairwise([START - 1, *indices.tolist(), START + length]))
    assert 1000 < accepted < 35_000  # both kinds of outcome were tried


def message_of(encoding="run-length", dtype="float32", length=100, places=(3, 50, 99)) -> bytes:
    indices = torch.tensor(places, dtype=torch.int64) + START
    values = torch.ones(len(places))
    return encode(indices, values, START, length, WireCoding(encoding, dtype)).numpy().tobytes()


def tensor(message: bytes) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(message, np.uint8).copy())


def with_bytes(message: bytes, at: int, new: bytes, length: int = 100) -> bytes:
    return reference.sealed(message[:at] + new + message[at + len(new) :], length)


def longer_plane(plane: bytes) -> bytes:
    """Return a Rice-coded message with another plane of quotients."""
    message = message_of("rice")
    return reference.sealed(message[:26] + plane + message[27:], 100)


def gamma_message(quotients: bytes) -> bytes:
    """Return a Rice-coded message with gamma codes of quotients, behind 4 low bits of each gap."""
    message = message_of("rice")
    head = message[:3] + bytes([message[3] | 0x80])
    return reference.sealed(head + message[4:26] + quotients + message[27:], 100)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (b"", "message of 0 bytes, expected at least 12: a header"),
        (message_of()[:11], "message of 11 bytes, expected at least 12"),
        (b"\x00" + message_of()[1:], "first byte 0x00, expected 0xdc"),
        (message_of()[:1] + b"\x03" + message_of()[2:], "format version 3, expected 1 or 2"),
        (with_bytes(message_of(), 1, b"\x02"), "run-length float32 message of version 2"),
        (message_of()[:-1], "checksum of a message of 29 bytes for 100 elements"),
        (message_of(length=99, places=(3,)), "or for a run of another length"),
        (with_bytes(message_of(), 2, b"\x05"), "index encoding 5, expected one of 0 .dense., 1"),
        (with_bytes(message_of(), 2, b"\x31"), "value type 3, expected one of 0 .float32."),
        (with_bytes(message_of("rice"), 2, b"\x65"), "value type 6, expected one of 0 .float32."),
        (
            with_bytes(message_of("rice", "int8"), 2, b"\x30"),
            "dense int8 message, expected indices",
        ),
        # A scale of 4 bytes, three values in 6 bits, and an even place for the indices after them.
        (with_bytes(message_of("rice", "int2"), 16, b"\x40"), "a byte 0x40 .*in those of 0xc0"),
        (with_bytes(message_of("rice", "int2"), 17, b"\x01"), "a byte 0x01 .*in those of 0xff"),
        (with_bytes(message_of(), 3, b"\x02"), "run-length parameter 2, expected at most 1"),
        (with_bytes(message_of("bitmap"), 3, b"\x01"), "bitmap parameter 1, expected at most 0"),
        (with_bytes(message_of("bit-packed"), 3, b"\x20"), "parameter 32, expected at most 31"),
        (reference.sealed(message_of() + b"\0", 100), "with 19 bytes after its header, expected"),
        (with_bytes(message_of(), 28, b"\xff\xff"), "last index is 65586, expected below 100"),
        (with_bytes(message_of("int32"), 24, b"\xff" * 4), "index out of range or order"),
        (with_bytes(message_of("int32"), 24, b"\x32\0\0\0"), "expected ascending indices"),
        (with_bytes(message_of("bitmap"), 24, b"\xff"), "bitmap with 10 bits set, expected 3"),
        (with_bytes(message_of("bitmap"), 36, b"\x18"), "expected 0 in those of 0xf0"),
        (with_bytes(message_of("bit-packed"), 26, b"\x80"), "expected 0 in those of 0xfc"),
        # Low bits 3, 14 and 0 in 12 bits, a plane of 8 bits with quotients 0, 2 and 3; 3 entries.
        (with_bytes(message_of("rice"), 25, b"\xc0"), "a byte 0xc0 .*in those of 0xf0"),
        (with_bytes(message_of("rice"), 26, b"\x9b"), "rice message with 5 quotients"),
        (longer_plane(b"\x89\x00"), "byte 0x00, expected 3 quotients, and the last"),
        (longer_plane(b"\x03\x01"), "last index is 115, expected below 100"),
        (longer_plane(b"\x03\x00\x01"), "expected at most 100 of them, and 3 to 4 bytes"),
        (with_bytes(message_of("rice"), 27, b"\x65"), "for 101 entries, expected at most 100"),
        (with_bytes(message_of("bitmap", "int8"), 3, b"\x80"), "gamma codes in a bitmap message"),
        # Low bits 3, 14 and 0 as above, then gamma codes: quotients 0, 2 and 3 take two bytes.
        (gamma_message(b"\x11"), "rice message with 2 gamma codes, expected 3"),
        (gamma_message(b"\x49\x02"), "no other bit set"),
        (gamma_message(b"\x49"), "in 1 bytes, .* expected 2 bytes"),
        (gamma_message(b"\x03\x01"), "of a quotient of 6 bits, .* at most 3 bits"),
        (with_bytes(message_of(), 3, b"\x01"), "escape codes, expected some"),
    ],
)
def test_an_error_says_what_was_found_and_what_expected(message: bytes, text: str):
    with pytest.raises(WireError, match=f"^wire: .*{text}"):
        decode(tensor(message), START, 100)


def test_an_escape_code_has_to_lead_somewhere():
    message = bytearray(message_of("run-length", length=70_000, places=(3, 69_999)))
    assert message[3] == 1
    assert message[20:].hex() == "0300ffff" + "6c11" + "01000000"
    swapped = message[:22] + message[24:26] + message[22:24] + message[26:]
    with pytest.raises(WireError, match="or an escape code last, expected 2 run lengths"):
        decode(tensor(reference.sealed(bytes(swapped), 70_000)), START, 70_000)


@pytest.mark.parametrize(
    "message", [torch.zeros(20), torch.zeros(20, 1, dtype=torch.uint8)], ids=["floats", "2-D"]
)
def test_refuses_what_are_no_bytes(message: torch.Tensor):
    with pytest.raises(WireError, match="expected 1-D uint8"):
        decode(message, 0, 10)


@pytest.mark.parametrize("length", [2**31 + 1, 2**40])
def test_refuses_runs_whose_indices_do_not_fit(length: int):
    empty = torch.empty(0, dtype=torch.int64)
    with pytest.raises(WireError, match="cuts the buffer into more chunks"):
        encode(empty, torch.empty(0), 0, length)
    with pytest.raises(WireError, match="cuts the buffer into more chunks"):
        decode(torch.empty(12, dtype=torch.uint8), 0, length)
