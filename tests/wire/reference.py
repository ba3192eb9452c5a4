"""The format once more, from FORMAT.md alone: slow, on plain bytes and integers."""

import struct

import numpy as np

PRIME = 2**32 - 5
ENCODINGS = ["dense", "run-length", "bit-packed", "bitmap", "int32", "rice"]
DTYPES = ["float32", "float16", "bfloat16", "int8", "int4", "int2"]
BITS = {"float32": 32, "float16": 16, "bfloat16": 16, "int8": 8, "int4": 4, "int2": 2}


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
    coarse = dtype.startswith("int")
    check((version == 2) == (encoding == "rice" or coarse))
    check(not (coarse and encoding == "dense"))
    if version == 2:
        indices, values = _counted(encoding, parameter, dtype, message[12:], length)
        check(all(a < b for a, b in zip([-1, *indices], [*indices, length], strict=True)))
        return indices, values
    value_bytes = BITS[dtype] // 8
    indices, split = _indices(encoding, parameter, value_bytes, message[12:], length)
    check(len(indices) * value_bytes == split)
    check(all(a < b for a, b in zip([-1, *indices], [*indices, length], strict=True)))
    return indices, floats(message[12 : 12 + split], dtype)


def floats(data: bytes, dtype: str) -> np.ndarray:
    if dtype == "bfloat16":
        wide = np.frombuffer(data, "<u2").astype("<u4") << 16
        return wide.view("<f4")
    return np.frombuffer(data, "<f4" if dtype == "float32" else "<f2").astype("<f4")


def _counted(
    encoding: str, parameter: int, dtype: str, body: bytes, length: int
) -> tuple[list[int], np.ndarray]:
    """Return indices and values of a message that says how many entries it has."""
    is_gamma, count_bytes, parameter = parameter >> 7, (parameter >> 5 & 3) + 1, parameter & 31
    check(len(body) >= count_bytes and (encoding == "rice" or not is_gamma))
    check(parameter <= {"bit-packed": 31, "rice": 31, "run-length": 1}.get(encoding, 0))
    count = int.from_bytes(body[-count_bytes:], "little")
    check(count <= length)
    body, at = body[:-count_bytes], 0
    coarse, bits_each = dtype.startswith("int"), BITS[dtype]
    if coarse:
        check(len(body) >= 4)
        low, step = floats(body[:4], "bfloat16")
        at = 4
    end = at + -(-count * bits_each // 8)
    check(end <= len(body))
    if coarse:
        values = _steps(numbers(body[at:end], count, bits_each), bits_each, low, step)
    else:
        values = floats(body[at:end], dtype)
    start = end + (-end % 4 if encoding == "int32" else end % 2 if coarse else 0)
    check(start <= len(body) and not any(body[end:start]))
    if is_gamma:
        return _gamma(parameter, count, body[start:], length), values
    return _counted_indices(encoding, parameter, count, body[start:], length), values


def _steps(codes: list[int], bits_each: int, low: np.ndarray, step: np.ndarray) -> np.ndarray:
    most = 2 ** (bits_each - 1)
    of_each = np.array(codes, np.int64)
    with np.errstate(all="ignore"):
        sizes: np.ndarray = low + (of_each % most).astype("<f4") * step
    largest = np.finfo("<f4").max
    return np.clip(np.where(of_each >= most, -sizes, sizes), -largest, largest).astype("<f4")


def _counted_indices(
    encoding: str, parameter: int, count: int, coded: bytes, length: int
) -> list[int]:
    match encoding:
        case "rice":
            return _rice(parameter, count, coded)
        case "bitmap":
            check(len(coded) == -(-length // 8))
            flags = bits(coded)
            check(not any(flags[length:]) and sum(flags) == count)
            return [place for place, flag in enumerate(flags) if flag]
        case "int32":
            check(len(coded) == 4 * count)
            return list(struct.unpack(f"<{count}i", coded))
        case "run-length":
            escapes, rest = divmod(len(coded) - 2 * count, 2)
            check(rest == 0 and (escapes > 0 and count > 0 if parameter else escapes == 0))
            indices = _from_codes(coded, parameter)
            check(len(indices) == count)
            return indices
    check(len(coded) == -(-count * parameter // 8))
    return from_gaps(_wide_numbers(coded, count, parameter))


def _wide_numbers(data: bytes, count: int, width: int) -> list[int]:
    if width < 16:
        return numbers(data, count, width)
    low = struct.unpack(f"<{count}H", data[: 2 * count])
    high = numbers(data[2 * count :], count, width - 16)
    return [a | b << 16 for a, b in zip(low, high, strict=True)]


def _rice(low_bits: int, count: int, coded: bytes) -> list[int]:
    low_bytes = -(-count * low_bits // 8)
    check(low_bytes <= len(coded))
    low = _wide_numbers(coded[:low_bytes], count, low_bits)
    flags = bits(coded[low_bytes:])
    ends = [place for place, flag in enumerate(flags) if flag]
    check(len(ends) == count)
    check(len(flags) - (ends[-1] + 1 if ends else 0) < 8)
    quotients = [end - before - 1 for before, end in zip([-1, *ends], ends, strict=False)]
    return from_gaps([q << low_bits | r for q, r in zip(quotients, low, strict=True)])


def _gamma(low_bits: int, count: int, coded: bytes, length: int) -> list[int]:
    low_bytes = -(-count * low_bits // 8)
    check(low_bytes <= len(coded))
    low = _wide_numbers(coded[:low_bytes], count, low_bits)
    flags, at, sizes = bits(coded[low_bytes:]), 0, []
    for _ in range(count):
        size = 0
        while at < len(flags) and not flags[at]:
            size, at = size + 1, at + 1
        check(at < len(flags) and size <= (length - count >> low_bits).bit_length())
        sizes.append(size)
        at += 1
    quotients = []
    for size in sizes:
        below = flags[at : at + max(size - 1, 0)]
        check(len(below) == max(size - 1, 0))
        highest = 2**size // 2
        quotients.append(highest + sum(flag << place for place, flag in enumerate(below)))
        at += len(below)
    check(len(flags) - at < 8 and not any(flags[at:]))
    return from_gaps([q << low_bits | r for q, r in zip(quotients, low, strict=True)])


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
            return from_gaps(_wide_numbers(body[split:], count, width)), split
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
    return _from_codes(body[split:], escaped), split


def _from_codes(codes: bytes, escaped: int) -> list[int]:
    gaps, gap, ended = [], 0, True
    for (code,) in struct.iter_unpack("<H", codes):
        gap += code
        ended = not (escaped and code == 65535)
        if ended:
            gaps.append(gap)
            gap = 0
    check(ended)
    return from_gaps(gaps)
