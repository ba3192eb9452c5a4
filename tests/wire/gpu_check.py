"""Messages by Triton kernels beside those by torch, byte for byte; a script that needs Triton.

With TRITON_INTERPRET=1 it runs on a CPU, kernels and all; without, on the first GPU.
"""

import itertools
import os
from collections.abc import Callable
from typing import Any, TypeVar
from unittest import mock

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from dgc_topo.wire import encoding, header, indices, kernels, on_gpu, small, tensors
from dgc_topo.wire.checksum import PRIME
from dgc_topo.wire.coding import (
    COARSE_DTYPES,
    DENSE_DTYPES,
    INDEX_CHOICES,
    IndexChoice,
    WireCoding,
    WireDtype,
)
from dgc_topo.wire.decoding import decode
from dgc_topo.wire.encoding import encode, encoded_bytes
from dgc_topo.wire.format import WireError
from tests.kernels import as_kernels_choose
from tests.wire import test_hostile

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
COUNTS = (1, 2, 3, 257, 1025)  # the last is more than one program
HOSTILE = 700 if INTERPRETED else 5000
CHOICES: tuple[IndexChoice, ...] = ("run-length", "bit-packed", "auto")
LONGEST = 2**31

Result = TypeVar("Result")


def both(work: Callable[[], Result]) -> tuple[Result, Result]:
    """Return what *work* comes to with kernels, and by torch alone."""
    results = []
    for kernels_too in (True, False):
        for module in (encoding, header, indices):
            module.has_kernels = lambda _, use=kernels_too: use  # type: ignore[attr-defined]
        results.append(work())
    return results[0], results[1]


def message_of(*entries: Any) -> Tensor:
    """Check that a message is the same both ways, is as long as promised and is read alike."""
    made, expected = both(lambda: encode(*entries))
    assert made.dtype == torch.uint8
    assert made.is_contiguous()
    assert made.cpu().tolist() == expected.cpu().tolist(), entries[2:]
    places, _, *run = entries
    assert both(lambda: encoded_bytes(places, *run)) == (len(made), len(made))
    found, wanted = both(lambda: decode(made, *run[:2]))
    assert found[0].equal(wanted[0]), run
    assert found[1].view(torch.int32).equal(wanted[1].view(torch.int32)), run
    return made


def interpretable(values: Tensor, dtype: WireDtype) -> Tensor:
    """Return what the interpreter rounds as a GPU does; of bfloat16 it just cuts off bits."""
    if not INTERPRETED or dtype == "float32":
        return values
    values = values[~values.isnan()]
    if dtype == "bfloat16":
        values = values.to(torch.bfloat16).to(torch.float32)
        values = values[(values == 0) | (values.abs() >= torch.finfo(torch.float32).tiny)]
    return values


def values_for(count: int, dtype: WireDtype, generator: torch.Generator) -> Tensor:
    """Return noise."""
    return interpretable(torch.randn(count, generator=generator), dtype).to(DEVICE)


def places_of(count: int, width: int, generator: torch.Generator) -> Tensor:
    """Return indices whose largest gap has so many bits, some of the others almost so many."""
    if not width:
        return torch.arange(count)
    most = min(2**width, max(2, LONGEST // (4 * count)))
    gaps = torch.randint(0, most, (count,), generator=generator)
    gaps[count // 2] = 2**width - 1 if width < 31 else LONGEST // 2 + 77
    return gaps.add(1).cumsum(0).sub(1)


def check_widths() -> None:
    """Every width of gaps and type of values, with odd and even numbers of entries."""
    generator = torch.Generator().manual_seed(1)
    packed = set()
    for width, (number, count) in itertools.product(range(32), enumerate(COUNTS)):
        start = int(torch.randint(0, 2**40, (1,), generator=generator)) * (number % 2)
        places = places_of(count, width, generator).to(DEVICE) + start
        for dtype in DENSE_DTYPES if count == 3 else (DENSE_DTYPES[(width + number) % 3],):
            values = values_for(count, dtype, generator)
            for choice in CHOICES if count == 2 else ("bit-packed",):
                made = message_of(places, values, start, LONGEST, WireCoding(choice, dtype))
                packed |= {int(made[3])} if made[2] & 15 == 2 else set()
    assert packed == set(range(32))


def check_edges() -> None:
    """No entries, many, every encoding, gaps at escape codes, memory that begins anywhere."""
    generator = torch.Generator().manual_seed(2)
    for count, dtype, choice in itertools.product((0, 3, 600), DENSE_DTYPES, INDEX_CHOICES):
        length = 50 * count + 7
        places = torch.randperm(length, generator=generator)[:count].sort().values.to(DEVICE)
        message_of(
            places, values_for(count, dtype, generator), 0, length, WireCoding(choice, dtype)
        )
    places = torch.arange(3, 6003, 10, device=DEVICE)
    for coarse in COARSE_DTYPES:  # which torch writes in any case, and kernels partly read
        noise = values_for(600, "float32", generator)
        values = noise.sign() * (1 + noise.abs() / 10)  # alike, as what a threshold selects
        message_of(places, values, 0, 7000, WireCoding("auto", coarse))
    for gap, choice in itertools.product((65_534, 65_535, 65_536, 131_070), CHOICES):
        places = torch.tensor([gap, 2 * gap + 1, 2 * gap + 2], device=DEVICE)
        message_of(places, torch.ones(3, device=DEVICE), 0, LONGEST, WireCoding(choice, "float16"))
    places = torch.arange(0, 140_002, 2, device=DEVICE)
    values = values_for(len(places), "bfloat16", generator)
    for dtype in DENSE_DTYPES:
        message_of(places, values, 0, 2**20, WireCoding("bit-packed", dtype))
        message_of(places[3:700], values[1:698], 0, 2**20, WireCoding("run-length", dtype))
        message_of(places[1:1000:3], values[1:1000:3], 0, 2**20, WireCoding("run-length", dtype))


def check_values() -> None:
    """All kinds of numbers are rounded as torch rounds them; sums of extreme words are right."""
    generator = torch.Generator().manual_seed(3)
    bits = torch.randint(-(2**31), 2**31, (20_000,), generator=generator).to(torch.int32)
    special = [0, 1, -1, 0x7F7FFFFF, 0x477FF000, 0x477FEFFF, 0x33000000, 0x33000001, 0x387FE000]
    bits = torch.cat([bits, torch.tensor(special, dtype=torch.int32)])
    values = bits.view(torch.float32)
    values = torch.cat([values, torch.tensor([float("inf"), -float("inf"), -0.0])])
    for dtype in DENSE_DTYPES:
        chosen = interpretable(values, dtype)
        with np.errstate(over="ignore"):  # beyond float16 is infinity
            message_of(
                torch.arange(len(chosen), device=DEVICE),
                chosen.to(DEVICE),
                0,
                2**20,
                WireCoding(wire_dtype=dtype),
            )
    for extreme in (-(2**31), 2**31 - 1):
        same = torch.full((5000,), extreme, dtype=torch.int32, device=DEVICE).view(torch.float32)
        message_of(
            torch.arange(5000, device=DEVICE), same, 0, 5000, WireCoding("bit-packed", "float32")
        )


def load_and_add(words, sums, before, block: tl.constexpr):
    kernels._add_sums(sums, tl.load(words + tl.arange(0, block)), tl.load(before), block)


add_sums = triton.jit(load_and_add)


def check_sums() -> None:
    """Words far into a message, at the edges of the modulus, where a product could overflow."""
    for before in (0, 3, 2**31, PRIME - 1, PRIME, PRIME + 1, 2**32 + 1024, 2**40 + 3):
        for word in (-(2**31), -(2**31) + 1, -5, 0, 2**31 - 6, 2**31 - 1):
            words = torch.full((kernels.LARGE_BLOCK,), word, device=DEVICE)
            words[::3] = before % 2**31
            sums = torch.zeros(2, dtype=torch.int64, device=DEVICE)
            base = torch.tensor(before, device=DEVICE)
            add_sums[(1,)](words, sums, base, block=kernels.LARGE_BLOCK)
            exact = list(enumerate(words.tolist(), before + 1))
            expected = [sum(w for _, w in exact) % PRIME, sum(i * w for i, w in exact) % PRIME]
            assert [found % PRIME for found in sums.tolist()] == expected, (before, word)


def outcome(raw: np.ndarray, length: int) -> tuple[Any, ...]:
    """Return what a message decodes to, or why it is refused."""
    try:
        found, values = decode(torch.from_numpy(raw.copy()).to(DEVICE), 1000, length)
    except WireError as error:
        return (str(error),)
    return found.tolist(), values.view(torch.int32).tolist()


def check_hostile() -> None:
    """Damaged messages, and sealed ones that lie, are refused in the same words or read alike."""
    generator = np.random.default_rng(4)
    messages = test_hostile.corpus(generator)
    accepted = 0
    for stream in (test_hostile.damaged, test_hostile.lying):
        for raw, length in itertools.islice(stream(generator, messages), HOSTILE):
            ours, theirs = both(lambda raw=raw, length=int(length): outcome(raw, length))  # type: ignore[misc]
            assert ours == theirs, (raw.tobytes().hex(), length)
            accepted += len(ours) > 1
    assert accepted > HOSTILE // 10


def main() -> None:
    """Check everything."""
    # So that a CPU has no ways of its own.
    small.MAX_ENTRIES = -1
    header.MOST_HOST_WORDS = -1  # type: ignore[attr-defined]
    tensors.in_numpy = lambda tensor: False
    with as_kernels_choose():
        check_sums()
        check_values()
        check_edges()
        with mock.patch.object(on_gpu, "_SHORT", 500):  # as if messages were long
            check_edges()
        check_widths()
    check_hostile()
    print("kernels equal torch")  # noqa: T201


if __name__ == "__main__":
    main()
