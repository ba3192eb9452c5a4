"""Time to make and read messages of version 2, over what version 1's code took.

    OMP_NUM_THREADS=1 python -m benchmarks.wire_versions                 all rows, three minutes
    OMP_NUM_THREADS=1 python -m benchmarks.wire_versions --entries 100 1000 --values float32

Version 1's code is that of the last commit that knew no other, taken out of git.  Both take turns
in one process, some milliseconds each; ratios are medians over the turns, of processor time.
"random" entries lie anywhere at 1 %; "real" ones have the gaps of a CNN on Fashion-MNIST, one
message after the other.  Coarse values are steps of four sections' scales, as the runtime has them
when it sends; they are compared with bfloat16, the smallest type of version 1.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.supports import trained_supports
from dgc_topo.wire.coding import COARSE_DTYPES, WIRE_DTYPES, WireCoding, WireDtype
from dgc_topo.wire.decoding import decode
from dgc_topo.wire.encoding import encode
from dgc_topo.wire.scales import rounded

#: The last commit whose messages are all of version 1.
VERSION_1 = "2daa4987f498f5bdf2f458b422c0df6b4afda62b"
ENTRIES = (100, 300, 1000, 3000, 10_000, 100_000, 1_000_000)
VALUES: tuple[WireDtype, ...] = ("float32", "float16", "int8", "int4", "int2")
TURN_S, TURNS = 2e-3, 25
LIMIT = 1.5  #: of the time of version 1
_STEPS, _WORKERS, _SECTIONS = 40, 2, 4


def load_version_1(folder: str) -> Any:
    """Return the module ``wire.message`` of version 1's code, and that of its codings.

    Raises:
        SystemExit: if git does not have it.
    """
    root = Path(__file__).parents[1]

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", root, *words], capture_output=True, text=True)  # noqa: PLW1510
        if done.returncode:
            raise SystemExit(f"wire_versions: needs commit {VERSION_1[:9]}: {done.stderr.strip()}")
        return done.stdout

    listed = git("ls-tree", "--name-only", VERSION_1, "dgc_topo/wire/").split()
    for name in [*listed, "dgc_topo/arrays.py", "dgc_topo/sizes.py"]:
        if name.endswith(".py"):
            path = Path(folder, name.replace("dgc_topo", "version_1", 1))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(git("show", f"{VERSION_1}:{name}").replace("dgc_topo", "version_1"))
    Path(folder, "version_1/__init__.py").touch()
    sys.path.insert(0, folder)
    return tuple(
        importlib.import_module(f"version_1.wire.{each}") for each in ("message", "coding")
    )


def random_indices(count: int) -> Tensor:
    """Return so many indices at random places, one in a hundred."""
    generator = torch.Generator().manual_seed(count)
    found: Tensor = torch.unique(
        torch.randint(0, 100 * count, (count * 102 // 100,), generator=generator)
    )
    return found[:count]


def real_gaps(density: float) -> Tensor:
    """Return the distances between entries of real messages, one message after the other."""
    found = [
        torch.diff(indices, prepend=indices.new_full((1,), -1))
        for step in trained_supports(_WORKERS, density, _STEPS)
        for indices, _ in step.entries
    ]
    return torch.cat(found[len(found) // 2 :])


class Times(NamedTuple):
    """Microseconds of one call, and what version 2 takes over version 1."""

    us: float
    ratio: float


def compare(new: Callable[[], object], old: Callable[[], object]) -> Times:
    """Time two functions in turns."""
    times, repeats = [], []
    for work in (new, old):
        work()
        started = time.thread_time()
        work()
        repeats.append(max(1, int(TURN_S / max(time.thread_time() - started, 1e-7))))
    for _ in range(TURNS):
        turn = []
        for work, count in zip((new, old), repeats, strict=True):
            started = time.thread_time()
            for _ in range(count):
                work()
            turn.append((time.thread_time() - started) / count)
        times.append(turn)
    ratio = statistics.median(mine / other for mine, other in times)
    return Times(1e6 * statistics.median(mine for mine, _ in times), ratio)


def show(indices: Tensor, where: str, dtype: WireDtype, version_1: Any) -> float:
    """Print the row of some entries; return the larger ratio."""
    message, coding = version_1
    length, count = int(indices[-1]) + 1, len(indices)
    values = torch.randn(count, generator=torch.Generator().manual_seed(count)) + 3
    bounds: tuple[int, ...] = ()
    scales, is_coarse = None, dtype in COARSE_DTYPES
    if is_coarse:
        bounds = tuple(length * part // _SECTIONS for part in range(1, _SECTIONS))
        values, scales = rounded(indices, values, bounds, dtype)
    mine, other = (
        WireCoding("auto", dtype),
        coding.WireCoding("auto", "bfloat16" if is_coarse else dtype),
    )
    new = encode(indices, values, 0, length, mine, scales)
    old = message.encode(indices, values, 0, length, other)
    assert decode(new, 0, length, bounds)[0].equal(indices)
    making = compare(
        partial(encode, indices, values, 0, length, mine, scales),
        partial(message.encode, indices, values, 0, length, other),
    )
    reading = compare(
        partial(decode, new, 0, length, bounds), partial(message.decode, old, 0, length)
    )
    print(
        f"| {count} | {where} | {dtype} | {len(new) / count:.2f} | {len(old) / count:.2f} "
        f"| {making.us:.0f} | {making.ratio:.2f} | {reading.us:.0f} | {reading.ratio:.2f} |",
        flush=True,
    )
    return max(making.ratio, reading.ratio)


def main() -> None:
    """Print the table, and the largest ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--entries", type=int, nargs="*", default=ENTRIES)
    parser.add_argument("--values", nargs="*", default=VALUES, choices=WIRE_DTYPES)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    real = {f"real, {density:.1%}": real_gaps(density) for density in (0.01, 0.001)}
    print(
        "| entries | places | values | bytes each | version 1 | encode, us | ratio | decode, us "
        "| ratio |"
    )
    print("| ---: | :--- | :--- | ---: | ---: | ---: | ---: | ---: | ---: |")
    ratios = []
    with TemporaryDirectory() as folder:
        version_1 = load_version_1(folder)
        for count, where, dtype in product(chosen.entries, ("random", *real), chosen.values):
            if where == "random":
                indices = random_indices(count)
            else:
                gaps = real[where]
                indices = gaps.repeat(-(-count // len(gaps)))[:count].cumsum(0) - 1
            ratios.append(show(indices, where, dtype, version_1))
    print(
        f"\nat most {max(ratios):.2f} times version 1; above {LIMIT} in "
        f"{sum(each > LIMIT for each in ratios)} of {len(ratios)} rows"
    )


if __name__ == "__main__":
    main()
