"""Speed of a DGC step, beside what it costs to move its bytes.

Run ``python -m benchmarks.codec_speed`` (``--help`` lists its options).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import typer
from rich.table import Table

from benchmarks.codec import CodecRow, bench_codec
from dgc_topo.cli.console import clear_errors, console, print_json
from dgc_topo.cli.options import Fraction, each_once
from dgc_topo.cli.streams import run
from dgc_topo.units import bytes_text, seconds_text, times_text

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def codec(
    elements: Annotated[
        list[int] | None, typer.Option(help="of the gradient; repeatable (default: 25.6 million)")
    ] = None,
    tensors: Annotated[
        list[int] | None, typer.Option(help="equal ones it is made of; repeatable (1 and 160)")
    ] = None,
    density: Fraction = 0.001,
    repeats: Annotated[int, typer.Option(help="measured steps of each")] = 9,
    threads: Annotated[int, typer.Option(help="of torch on the CPU")] = 1,
    devices: Annotated[
        Literal["all", "cpu", "cuda"], typer.Option(help="the CPU, every GPU, or both")
    ] = "all",
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object per row")] = False,
) -> None:
    """Time a DGC step beside plain copies of the bytes it has to move, on the CPU and each GPU."""
    with clear_errors():
        torch.set_num_threads(threads)
        sizes = each_once("--elements", elements or [25_600_000])
        counts = each_once("--tensors", tensors or [1, 160])
        rows = []
        for row in bench_codec(sizes, counts, density=density, repeats=repeats, devices=devices):
            rows.append(row)
            if as_json:
                print_json(row.facts())
        if not as_json:
            for _, same in itertools.groupby(rows, lambda r: (r.device, r.elements, r.tensors)):
                console.print(_table(list(same)))


def _table(rows: Sequence[CodecRow]) -> Table:
    """Return a column per way of selecting, on one device and size."""
    first = rows[0]
    title = f"{first.device}: {first.elements:,} elements in {first.tensors:,} tensors"
    table = Table("selection", *(row.selection for row in rows), title=title)
    for phase in first.phases:
        table.add_row(phase, *(seconds_text(r.phases[phase]) for r in rows))
    table.add_row("step", *(seconds_text(row.total_s) for row in rows))
    table.add_row("from an idle device", *(seconds_text(row.idle_s) for row in rows))
    table.add_row("copies of 20 bytes each", *(seconds_text(row.bound_s) for row in rows))
    table.add_row("ratio", *(times_text(row.ratio_to_bound) for row in rows))
    table.add_row("sent", *(f"{row.sent:,}" for row in rows))
    extra = (row.peak_extra_bytes for row in rows)
    table.add_row("extra memory", *("unknown" if e is None else bytes_text(e) for e in extra))
    return table


if __name__ == "__main__":
    run(app)
