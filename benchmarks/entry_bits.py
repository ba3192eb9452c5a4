"""Bits of an index and bytes of an entry on selections of a real training, by coding.

Run ``OMP_NUM_THREADS=1 python -m benchmarks.entry_bits`` (half a minute on a quiet core).
"""

from __future__ import annotations

import argparse
import math

import torch

from benchmarks.supports import trained_supports
from dgc_topo.wire.coding import COARSE_DTYPES, IndexChoice, WireCoding, WireDtype
from dgc_topo.wire.encoding import encode
from dgc_topo.wire.limits import HEADER_BYTES
from dgc_topo.wire.scales import rounded, sections_of

STEPS, WORKERS = 40, 2
FEWEST = 100  #: entries of a part that is looked at


def bound_bits(length: int, entries: int) -> float:
    """Return the bits of an index at best, all places alike: log2 binomial(length, n) / n."""
    logs = (math.lgamma(each + 1) for each in (length, entries, length - entries))
    whole, chosen, others = logs
    return (whole - chosen - others) / math.log(2) / entries


def index_bits(places: torch.Tensor, start: int, length: int, choice: IndexChoice) -> float:
    """Return all bits of a message but its header's and its values', per entry."""
    coding = WireCoding(choice)
    message = encode(places, torch.ones(len(places)), start, length, coding)
    return 8 * (len(message) - HEADER_BYTES) / len(places) - 32


def show_indices(density: float) -> None:
    """Print how far codings are above the bound, on messages of whole gradients and of parts."""
    step = list(trained_supports(WORKERS, density, STEPS))[-1]
    print(
        f"\nCNN, density {density:.1%}, step {step.step}: bits per index above the bound, mean/most"
    )
    for parts in (1, 2, 4, 8):
        found: dict[IndexChoice, list[float]] = {"bit-packed": [], "rice": [], "auto": []}
        for indices, _ in step.entries:
            for part in range(parts):
                start, end = (edge * step.length // parts for edge in (part, part + 1))
                here = indices[(indices >= start) & (indices < end)]
                if len(here) < FEWEST:
                    continue
                bound = bound_bits(end - start, len(here))
                for choice, above in found.items():
                    above.append(index_bits(here, start, end - start, choice) - bound)
        if found["auto"]:
            text = ", ".join(
                f"{choice} {sum(above) / len(above):.2f}/{max(above):.2f}"
                for choice, above in found.items()
            )
            print(f"  {parts} parts: {text}")


def show_values(density: float) -> None:
    """Print bytes per entry and the relative error of messages, by type of values."""
    step = list(trained_supports(WORKERS, density, STEPS))[-1]
    indices, values = step.entries[0]
    bounds = step.offsets[1:-1]
    print(
        f"\nCNN, density {density:.1%}: bytes per entry, relative error of all, of the worst layer"
    )
    plain: tuple[WireDtype, ...] = ("float32", "bfloat16")
    for dtype in plain:
        size = len(encode(indices, values, 0, step.length, WireCoding(wire_dtype=dtype)))
        print(f"  {dtype:>8} {size / len(indices):.2f}")
    sections = sections_of(indices, bounds)
    for dtype in reversed(COARSE_DTYPES):
        found, scales = rounded(indices, values, bounds, dtype)
        coding = WireCoding(wire_dtype=dtype)
        size = len(encode(indices, found, 0, step.length, coding, scales))
        layers = [sections == each for each in range(len(bounds) + 1)]
        errors = [float((found - values)[at].norm() / values[at].norm()) for at in layers]
        error = float((found - values).norm() / values.norm())
        print(f"  {dtype:>8} {size / len(indices):.2f} {error:.4f} {max(errors):.4f}")


def main() -> None:
    """Print the tables."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    for density in (0.01, 0.001):
        show_indices(density)
        show_values(density)


if __name__ == "__main__":
    main()
