"""The format once more, from FORMAT.md alone: slow, on plain bytes and integers."""

import struct

import numpy as np

PRIME = 2**32 - 5
ENCODINGS = ["dense", "run-length", "bit-packed", "bitmap", "int32", "rice"]
DTYPES = ["float32", "float16", "bfloat16"]


class RefusedError(Exception):
    pass


def checksum(message: bytes, length: int) -> bytes:
    """Return what bytes 4 to 11 of *message* have to be."""
    first = int.from_bytes(message[:4], "little")
    body = message[12:] + bytes(-len(message) % 4)
    words = [first, length, len(message), *struct.unpack(f"<{len(body) // 4}i", body)]
    plain = sum(words) % PRIME
    weighted = sum(place * word for place, word in enumerate(words, 1)) % PRIME
    return struct.pack("<II", plain, weighted)


def sealed(message: bytes, length: int) -> bytes:
    """Return the message with the checksum that it has to have."""
    return message[:4] + checksum(message, length) + message[12:]


def check(holds: bool) -> None:
    if not holds:
        raise RefusedError


def bits(data: bytes) -> list[int]:
    return [byte >> place & 1 for byte in data for place in range(8)]


def numbers(data: bytes, count: int, width: int) -> list[int]:
    flags = bits(data)
    check(not any(flags[count * width :]))
    return [
        sum(flag << place for place, flag in enumerate(flags[i * width : (i + 1) * width]))
        for i in range(count)
    ]


def from_gaps(gaps: list[int]) -> list[int]:
    indices, at = [], -1
    for gap in gaps:
        at += gap + 1
        indices.append(at)
    return indices


def decode(message: bytes, length: int) -> tuple[list[int], np.ndarray]:
    """Return relative indices and float32 values.

    Raises:
        RefusedError: if the bytes are no message for a run of *length* elements.
    """
    check(len(message) >= 12)
    magic, version, kind, parameter = message[:4]
    check(magic == 0xDC and version in (1, 2))
    check(message[4:12] == checksum(message, length))
    check(kind & 15 < len(ENCODINGS) and kind >> 4 < len(DTYPES))
    encoding, dtype = ENCODINGS[kind & 15], DTYPES[kind >> 4]
    value_bytes = 4 if dtype == "float32" else 2
    check((version == 2) == (encoding == "rice"))
    if version == 2:
        indices, split = _counted(parameter, value_bytes, message[12:])
        return _found(indices, split, dtype, value_bytes, message, length)
    indices, split = _indices(encoding, parameter, value_bytes, message[12:], length)
    return _found(indices, split, dtype, value_bytes, message, length)


def _found(
    indices: list[int], split: int, dtype: str, value_bytes: int, message: bytes, length: int
) -> tuple[list[int], np.ndarray]:
    check(len(indices) * value_bytes == split)
    check(all(a < b for a, b in zip([-1, *indices], [*indices, length], strict=True)))
    values = message[12 : 12 + split]
    if dtype == "bfloat16":
        wide = np.frombuffer(values, "<u2").astype("<u4") << 16
        return indices, wide.view("<f4")
    return indices, np.frombuffer(values, "<f4" if value_bytes == 4 else "<f2").astype("<f4")


def _counted(parameter: int, value_bytes: int, body: bytes) -> tuple[list[int], int]:
    """Return the indices of a message that says how many entries it has, and its values' bytes."""
    count_bytes, low_bits = (parameter >> 5) + 1, parameter & 31
    check(count_bytes <= 4 and len(body) >= count_bytes)
    count = int.from_bytes(body[-count_bytes:], "little")
    split = value_bytes * count
    check(split <= len(body))
    coded = body[split:-count_bytes]
    low_bytes = -(-count * low_bits // 8)
    check(low_bytes <= len(coded))
    if low_bits >= 16:
        low = list(struct.unpack(f"<{count}H", coded[: 2 * count]))
        high = numbers(coded[2 * count : low_bytes], count, low_bits - 16)
        low = [a | b << 16 for a, b in zip(low, high, strict=True)]
    else:
        low = numbers(coded[:low_bytes], count, low_bits)
    flags = bits(coded[low_bytes:])
    ends = [place for place, flag in enumerate(flags) if flag]
    check(len(ends) == count)
    check(len(flags) - (ends[-1] + 1 if ends else 0) < 8)
    quotients = [end - before - 1 for before, end in zip([-1, *ends], ends, strict=False)]
    return from_gaps([q << low_bits | r for q, r in zip(quotients, low, strict=True)]), split


def _indices(
    encoding: str, parameter: int, value_bytes: int, body: bytes, length: int
) -> tuple[list[int], int]:
    """Return relative indices, and the bytes of the values before them."""
    check(parameter <= {"bit-packed": 31, "run-length": 1}.get(encoding, 0))
    match encoding:
        case "dense":
            check(len(body) == value_bytes * length)
            return list(range(length)), len(body)
        case "int32":
            for count in range(len(body) // 4 + 1):
                padding = -value_bytes * count % 4
                if len(body) == value_bytes * count + padding + 4 * count:
                    split = value_bytes * count
                    return list(struct.unpack(f"<{count}i", body[split + padding :])), split
            raise RefusedError
        case "bitmap":
            split = len(body) - -(-length // 8)
            check(split >= 0)
            flags = bits(body[split:])
            check(not any(flags[length:]))
            return [place for place, flag in enumerate(flags) if flag], split
        case "bit-packed":
            return _packed(parameter, value_bytes, body)
    return _run_lengths(parameter, value_bytes, body)


def _packed(width: int, value_bytes: int, body: bytes) -> tuple[list[int], int]:
    for count in range(len(body) // value_bytes + 1):
        split = value_bytes * count
        if split + -(-count * width // 8) == len(body):
            packed, low = body[split:], [0] * count
            if width >= 16:
                low = list(struct.unpack(f"<{count}H", packed[: 2 * count]))
                high = numbers(packed[2 * count :], count, width - 16)
                return from_gaps([a | b << 16 for a, b in zip(low, high, strict=True)]), split
            return from_gaps(numbers(packed, count, width)), split
    raise RefusedError


def _run_lengths(escaped: int, value_bytes: int, body: bytes) -> tuple[list[int], int]:
    escapes = 0
    if escaped:
        check(len(body) >= 4)
        escapes = int.from_bytes(body[-4:], "little")
        check(escapes > 0)
        body = body[:-4]
    count, rest = divmod(len(body) - 2 * escapes, value_bytes + 2)
    check(rest == 0 and count >= escaped)
    split = value_bytes * count
    gaps, gap, ended = [], 0, True
    for (code,) in struct.iter_unpack("<H", body[split:]):
        gap += code
        ended = not (escaped and code == 65535)
        if ended:
            gaps.append(gap)
            gap = 0
    check(ended)
    return from_gaps(gaps), split
