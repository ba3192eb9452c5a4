"""The table of a training by several averaging rules: quality, bytes, and quality at equal bytes.

    python -m benchmarks.rules_table benchmarks/results/2026-11-30-gossip --megabytes 2 15 75
    python -m benchmarks.rules_table benchmarks/results/2026-11-30-local-steps

Images have accuracies.  Texts have losses, in nats per token, beside that of the first rung.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import dgc_topo as dt
from dgc_topo.records.measurement import Measurement


def quality_at(run: Measurement, num_bytes: float) -> float | None:
    """Return the quality when the busiest rank had sent so many bytes; None before a first point.

    Args:
        run: A training.
        num_bytes: The last point with at most so many counts.
    """
    assert run.quality is not None
    sent = run.wire_bytes_per_step
    values = [p.value for p in run.quality.points if p.step * sent <= num_bytes]
    return values[-1] if values else None


def rows_of_images(runs: Sequence[Measurement], megabytes: Sequence[float]) -> Iterator[list[str]]:
    """Yield the head and a row per run, the best at equal steps first."""
    yield [
        *("rule", "over", "density", "kB per step", "accuracy", "ranks' own", "apart"),
        *(f"at {each:g} MB" for each in megabytes),
    ]
    for run in sorted(runs, key=_last_value, reverse=True):
        assert run.quality is not None
        last = run.quality.points[-1]
        own, apart = last.ranks, last.consensus_distance
        at = [quality_at(run, each * 1e6) for each in megabytes]
        yield [
            run.averaging or "",
            _topology_of(run),
            f"{run.density:.0%}",
            f"{run.wire_bytes_per_step / 1e3:.1f}",
            f"{last.value:.2%}",
            "" if own is None else f"{own.lowest:.1%} to {own.highest:.1%}",
            "" if apart is None else f"{apart:.2g}",
            *("-" if value is None else f"{value:.2%}" for value in at),
        ]


def rows_of_texts(runs: Sequence[Measurement]) -> Iterator[list[str]]:
    """Yield the head and a row per run, in their order; the first one is the baseline."""
    yield ["rung", "rule", "bytes per token", "times fewer", "loss", "over the first"]
    first = runs[0]
    base, most = math.log(_last_value(first)), first.wire_bytes_per_sample
    for run in runs:
        loss, sent = math.log(_last_value(run)), run.wire_bytes_per_sample
        assert sent is not None
        assert most is not None
        yield [
            run.rung or "",
            run.averaging or "",
            f"{sent:.3g}",
            f"{most / sent:,.0f}",
            f"{loss:.4f}",
            f"{loss / base - 1:+.1%}",
        ]


def _topology_of(run: Measurement) -> str:
    options = ",".join(f"{key}={value}" for key, value in run.options.items())
    return f"{run.topology}:{options}" if options else run.topology


def _last_value(run: Measurement) -> float:
    assert run.quality is not None
    return run.quality.points[-1].value


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--megabytes", type=float, nargs="*", default=[])
    given = parser.parse_args()
    runs = dt.load_results(given.folder).measured
    of_texts = all(run.quality and run.quality.metric == "perplexity" for run in runs)
    head, *rows = rows_of_texts(runs) if of_texts else rows_of_images(runs, given.megabytes)
    for row in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
