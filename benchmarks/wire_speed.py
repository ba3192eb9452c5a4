"""Speed of making and reading sparse messages, for each way to code their indices.

Run ``OMP_NUM_THREADS=1 python benchmarks/wire_speed.py`` (about two minutes).  Entries are drawn at
random from 25.6 M elements, values are float32, and each number is the best of several runs.
"""

from __future__ import annotations

import argparse
import time
import zlib
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from dgc_topo.wire.checksum import word_sums
from dgc_topo.wire.coding import INDEX_CHOICES, IndexChoice, WireCoding
from dgc_topo.wire.decoding import decode
from dgc_topo.wire.encoding import encode

LENGTH = 25_600_000
DENSITIES = (0.001, 0.01, 0.1)
FEW = (0, 1, 25, 400)
SPACING = 1000  #: elements per entry of the small messages
DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


_FEWEST_RUNS = 4  # the first one warms up


def best_s(work: Callable[[], object], device: str, at_least_s: float = 0.3) -> float:
    """Return the shortest time of many runs, which together take at least so long."""
    best, spent, runs = float("inf"), 0.0, 0
    while spent < at_least_s or runs < _FEWEST_RUNS:
        started = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        took = time.perf_counter() - started
        best, spent, runs = min(best, took), spent + took, runs + 1
    return best


def entries_of(density: float, device: str) -> tuple[Tensor, Tensor]:
    """Return random entries: ascending indices and their values."""
    generator = torch.Generator().manual_seed(0)
    indices = (torch.rand(LENGTH, generator=generator) < density).nonzero().view(-1)
    return indices.to(device), torch.randn(len(indices), generator=generator).to(device)


def copy_of(indices: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return what making and reading messages is compared with."""
    return indices.clone(), values.clone()


def times_s(
    indices: Tensor, values: Tensor, length: int, choice: IndexChoice, device: str
) -> tuple[int, float, float]:
    """Return the bytes of a message, and the seconds to make it and to read it."""
    make = partial(encode, indices, values, 0, length, WireCoding(choice))
    message = make()
    read_s = best_s(partial(decode, message, 0, length), device)
    return message.numel(), best_s(make, device), read_s


def show_large(device: str, choices: tuple[IndexChoice, ...]) -> None:
    """Print entries per second of large messages."""
    print(f"\n{LENGTH / 1e6:g} M elements, {device}, float32 values; copy: indices and values")
    print(f"{'density':>8}  {'indices':<11}{'bytes/entry':>12}{'encode':>14}{'decode':>14}")
    for density in DENSITIES:
        indices, values = entries_of(density, device)
        count = len(indices)
        copy_s = best_s(partial(copy_of, indices, values), device)
        print(f"{density:>8.1%}  {'copy':<11}{12:>12.2f}{count / copy_s / 1e6:>12.0f} M/s")
        for choice in choices:
            num_bytes, encode_s, decode_s = times_s(indices, values, LENGTH, choice, device)
            print(
                f"{density:>8.1%}  {choice:<11}{num_bytes / count:>12.2f}"
                f"{count / encode_s / 1e6:>12.1f} M/s{count / decode_s / 1e6:>10.1f} M/s",
                flush=True,
            )


def show_small(device: str) -> None:
    """Print microseconds of small messages."""
    print(f"\nsmall messages, {device}: one entry per {SPACING} elements")
    print(f"{'entries':>8}  {'indices':<11}{'bytes':>8}{'encode':>12}{'decode':>12}")
    for count in FEW:
        generator = torch.Generator().manual_seed(count)
        length = max(1, SPACING * count)
        indices = torch.randperm(length, generator=generator)[:count].sort().values.to(device)
        values = torch.ones(count, device=device)
        choices: tuple[IndexChoice, ...] = ("auto", "run-length", "bit-packed", "rice", "int32")
        for choice in choices:
            num_bytes, encode_s, decode_s = times_s(indices, values, length, choice, device)
            print(
                f"{count:>8}  {choice:<11}{num_bytes:>8}"
                f"{encode_s * 1e6:>9.1f} us{decode_s * 1e6:>9.1f} us",
                flush=True,
            )


def show_checksum(device: str) -> None:
    """Print bytes per second of the checksum, beside zlib's CRC-32 and a copy."""
    print(f"\nchecksum, {device}")
    for size in (150_000, 1_500_000, 15_000_000):
        words = torch.randint(-(2**31), 2**31, (size // 4,), dtype=torch.int32, device=device)
        rates = {
            "this": best_s(partial(word_sums, words), device),
            "copy": best_s(words.clone, device),
        }
        if device == "cpu":
            raw = words.numpy().tobytes()
            rates["zlib.crc32"] = best_s(partial(zlib.crc32, raw), device)
        text = ", ".join(f"{name} {size / s / 1e9:.2f} GB/s" for name, s in rates.items())
        print(f"{size:>12,} bytes: {text}", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="leave out dense and bitmap")
    quick = parser.parse_args().quick
    told = tuple(c for c in INDEX_CHOICES if not (quick and c in {"dense", "bitmap"}))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread")
    for device in DEVICES:
        show_small(device)
        show_checksum(device)
        show_large(device, told)


if __name__ == "__main__":
    main()
