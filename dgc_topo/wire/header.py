"""The header of a message: writing it with its checksum, and checking it."""

from __future__ import annotations

import struct
import sys
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dgc_topo.wire.checksum import MOST_HOST_WORDS, PRIME, few_word_sums, word_sums
from dgc_topo.wire.coding import COARSE_DTYPES, IndexEncoding, WireDtype
from dgc_topo.wire.format import (
    DTYPE_CODES,
    ENCODING_CODES,
    GAMMA_BIT,
    MAGIC,
    OLD_DTYPES,
    OLD_ENCODINGS,
    PARAMETER_BITS,
    VERSION,
    Header,
    WireError,
    first_word,
    is_new,
)
from dgc_topo.wire.limits import HEADER_BYTES, MAX_COUNT_BYTES, MAX_WIDTH, WORD_BYTES
from dgc_topo.wire.parts import Layout, layout_of
from dgc_topo.wire.tensors import has_kernels

if sys.byteorder != "little":
    raise ImportError(f"wire: this machine is {sys.byteorder}-endian, expected little-endian")

_ENCODING_OF = {code: encoding for encoding, code in ENCODING_CODES.items()}
_DTYPE_OF = {code: dtype for dtype, code in DTYPE_CODES.items()}
#: By version.
_ENCODINGS = (
    {code: name for code, name in _ENCODING_OF.items() if code < OLD_ENCODINGS},
    _ENCODING_OF,
)
_DTYPES = {code: name for code, name in _DTYPE_OF.items() if code < OLD_DTYPES}, _DTYPE_OF

_LARGEST_PARAMETER = {"bit-packed": MAX_WIDTH, "run-length": 1, "rice": MAX_WIDTH}

_FIRST_WORD = 4  #: factor of the body's first word in the checksum, after what `_seeds` counts
_LAYOUT = struct.Struct("<III")


def seal(words: Tensor, header: Header, num_bytes: int, length: int) -> None:
    """Write the header of a message whose body is written; on a GPU nothing waits.

    Args:
        words: The whole message, int32; the bytes after its last are 0.
        header: What to say.
        num_bytes: Bytes of the message.
        length: Elements of its run.
    """
    if words.device.type == "cpu" and len(words) - _FIRST_WORD < MOST_HOST_WORDS:
        seal_words(words.numpy(), header, num_bytes, length)
        return
    first = first_word(header)
    _seal_on_device(words, first, _seeds(first, length, num_bytes))


def seal_words(words: npt.NDArray[np.int32], header: Header, num_bytes: int, length: int) -> None:
    """Write the header of a message in a CPU's memory of at most `MOST_HOST_WORDS` words."""
    first = first_word(header)
    sums = few_word_sums(words[_FIRST_WORD - 1 :])
    _LAYOUT.pack_into(words.data, 0, first, *_checks(*sums, *_seeds(first, length, num_bytes)))


def _seal_on_device(words: Tensor, first: int, seeds: tuple[int, int]) -> None:
    """Write the header without waiting for a number that a GPU has."""
    sums = word_sums(words[_FIRST_WORD - 1 :]) % PRIME
    words[0].fill_(first - (1 << 32) if first >> 31 else first)
    words[1].copy_((sums[0] + seeds[0]) % PRIME)  # keeps the low 32 bits
    words[2].copy_((sums[1] + (_FIRST_WORD - 1) * sums[0] + seeds[1]) % PRIME)


def open_message(message: Tensor, length: int, sections: int = 1) -> Layout:
    """Return a message's layout, its checksum and all sizes checked; on a GPU it waits once.

    Args:
        message: 1-D contiguous uint8, 4-byte aligned.
        length: Elements of its run.
        sections: Sections of the run.

    Raises:
        WireError: if it is no message of this version for a run of so many elements.
    """
    size = message.numel()
    if size < HEADER_BYTES:
        raise WireError(
            f"wire: message of {size} bytes, expected at least {HEADER_BYTES}: a header"
        )
    head, tail, plain, weighted = _facts(message, (size - HEADER_BYTES) // WORD_BYTES)
    first, *stored = _LAYOUT.unpack(head)
    magic, version, kind, parameter = head[:WORD_BYTES]
    if magic != MAGIC:
        raise WireError(f"wire: first byte {magic:#04x}, expected {MAGIC:#04x}: a sparse message")
    if not 1 <= version <= VERSION:
        raise WireError(f"wire: format version {version}, expected 1 or 2: update one library")
    if size % WORD_BYTES:
        rest = int.from_bytes(tail[-(size % WORD_BYTES) :], "little")
        plain, weighted = plain + rest, weighted + (size - HEADER_BYTES) // WORD_BYTES * rest + rest
    if tuple(stored) != _checks(plain, weighted, *_seeds(first, length, size)):
        raise WireError(
            f"wire: checksum of a message of {size} bytes for {length} elements, expected the one "
            "in its header: it is damaged, or for a run of another length"
        )
    return layout_of(_header(version, kind, parameter), size, length, tail, sections)


def _seeds(first: int, length: int, num_bytes: int) -> tuple[int, int]:
    """Return both sums of words 1 to 3: the header's first, the run's and the message's length."""
    return first + length + num_bytes, first + 2 * length + 3 * num_bytes


def _checks(plain: int, weighted: int, plain_seed: int, weighted_seed: int) -> tuple[int, int]:
    weighted += (_FIRST_WORD - 1) * plain
    return (plain + plain_seed) % PRIME, (weighted + weighted_seed) % PRIME


def _facts(message: Tensor, num_words: int) -> tuple[bytes, bytes, int, int]:
    """Return the header, the last four bytes and both sums of so many words after the header."""
    end = HEADER_BYTES + WORD_BYTES * num_words
    if message.device.type == "cpu" and num_words <= MOST_HOST_WORDS:
        raw = message.numpy()
        plain, weighted = few_word_sums(raw[HEADER_BYTES:end].view("<i4"))
        return raw[:HEADER_BYTES].tobytes(), raw[-WORD_BYTES:].tobytes(), plain, weighted
    if has_kernels(message.device):
        from dgc_topo.wire import on_gpu  # noqa: PLC0415 - needs Triton

        return on_gpu.ends_and_sums(message)
    sums = word_sums(message[HEADER_BYTES:end].view(torch.int32))
    ends = torch.cat([message[:HEADER_BYTES], message[-WORD_BYTES:]]).to(torch.int64)
    *both, plain, weighted = torch.cat(
        [ends, sums]
    ).tolist()  # all in one copy, because the host waits for it
    return bytes(both[:HEADER_BYTES]), bytes(both[HEADER_BYTES:]), plain, weighted


@lru_cache(maxsize=1024)
def _header(version: int, kind: int, parameter: int) -> Header:
    encodings, dtypes = _ENCODINGS[version - 1], _DTYPES[version - 1]
    encoding, dtype = encodings.get(kind & 15), dtypes.get(kind >> 4)
    if encoding is None:
        raise WireError(f"wire: index encoding {kind & 15}, expected one of {_listed(encodings)}")
    if dtype is None:
        raise WireError(f"wire: value type {kind >> 4}, expected one of {_listed(dtypes)}")
    if dtype in COARSE_DTYPES and encoding == "dense":
        raise WireError(f"wire: dense {dtype} message, expected indices beside coarse values")
    if version > 1 and not is_new(encoding, dtype):
        raise WireError(f"wire: {encoding} {dtype} message of version 2, expected version 1")
    count_bytes, is_gamma = 0, False
    if version > 1:
        is_gamma = bool(parameter >> GAMMA_BIT)
        count_bytes = (parameter >> PARAMETER_BITS) % MAX_COUNT_BYTES + 1
        parameter &= (1 << PARAMETER_BITS) - 1
    if is_gamma and encoding != "rice":
        raise WireError(f"wire: gamma codes in a {encoding} message, expected a rice message")
    if parameter > _LARGEST_PARAMETER.get(encoding, 0):
        raise WireError(
            f"wire: {encoding} parameter {parameter}, "
            f"expected at most {_LARGEST_PARAMETER.get(encoding, 0)}"
        )
    return Header(encoding, dtype, parameter, count_bytes, is_gamma)


def _listed(names: dict[int, IndexEncoding] | dict[int, WireDtype]) -> str:
    return ", ".join(f"{code} ({name})" for code, name in names.items())
