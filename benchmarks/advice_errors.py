"""Widths of the intervals that ``dgc-topo advise`` prints, from the committed validations.

Run ``python -m benchmarks.advice_errors``: it prints a table and writes the file that the package
comes with.  With ``--folds N`` it prints how many rows intervals hold that were made of the others.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from math import log
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from dgc_topo.cli.console import clear_errors, console
from dgc_topo.cli.streams import run
from dgc_topo.experiments.advice.errors import (
    ErrorClass,
    ErrorWidth,
    class_of,
    widths_of,
    write_widths,
)
from dgc_topo.experiments.validation.records import ValidationRow, load_rows

RESULTS = Path(__file__).parent / "results"
#: Validations of shaped links, whose calibration knew none of their rows.
FOLDERS = (
    "2026-11-28-validate-emulated",
    "2026-11-28-validate-overlapped",
    "2026-11-29-validate-1gbe-scaled",
    "2026-11-29-validate-steps",
)
#: Validations without shaped links: only the machine's processors bound them.
UNSHAPED = ("2026-11-28-validate-unshaped",)
#: Rows of two of the folders with the predictions of another day's calibration, by ``dgc-topo
#: validate SCENARIO --measured FOLDER --network 2026-11-28-validate-emulated/network.toml``.
OTHER_DAY = "2026-11-30-other-day"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def rows_of(folders: Iterable[str]) -> list[ValidationRow]:
    """Return the rows of validation folders."""
    return [row for folder in folders for row in load_rows(RESULTS / folder)]


def share_held(rows: Sequence[ValidationRow], seed: int) -> tuple[int, int]:
    """Return how many rows of a random half the widths of the other half hold, and of how many."""
    mixed = list(rows)
    random.Random(seed).shuffle(mixed)
    half = len(mixed) // 2
    return count_held(mixed[half:], widths_of(mixed[:half]))


def share_held_elsewhere(seed: int) -> tuple[int, int]:
    """Return how many rows, predicted by another day's calibration, the other half's widths hold.

    The widths are of a random half of the rows, with predictions by a calibration of their own day.
    """
    other = {_key(row): row for row in load_rows(RESULTS / OTHER_DAY)}
    mixed = [row for row in rows_of(FOLDERS) if _key(row) in other]
    random.Random(seed).shuffle(mixed)
    half = len(mixed) // 2
    return count_held([other[_key(row)] for row in mixed[half:]], widths_of(mixed[:half]))


def _key(row: ValidationRow) -> tuple[object, ...]:
    return row.name, row.world_size, row.rate_bits_per_s, row.payload, row.measured_s


def count_held(
    rows: Sequence[ValidationRow], widths: Mapping[ErrorClass, ErrorWidth]
) -> tuple[int, int]:
    """Return how many rows lie within widths, and how many there are of classes that have one."""
    tried = [row for row in rows if class_of(row) in widths]
    held = sum(
        abs(log(row.measured_s / row.predicted_s)) <= widths[class_of(row)].width for row in tried
    )
    return held, len(tried)


@app.command()
def advice_errors(
    folds: Annotated[int, typer.Option(help="random halves; 0 writes the file", min=0)] = 0,
) -> None:
    """Write the widths, or print how well widths of one half of the rows hold the other half."""
    with clear_errors():
        if folds:
            shaped, unshaped = rows_of(FOLDERS), rows_of(UNSHAPED)
            for name, rows, share in (
                ("shaped links", shaped, partial(share_held, shaped)),
                ("unshaped", unshaped, partial(share_held, unshaped)),
                (
                    "by another day's calibration",
                    load_rows(RESULTS / OTHER_DAY),
                    share_held_elsewhere,
                ),
            ):
                held, tried = (
                    sum(column) for column in zip(*map(share, range(folds)), strict=True)
                )
                console.print(f"{name}: {held / tried:.1%} held, {len(rows)} rows, {folds} halves")
            return
        widths = widths_of(rows_of((*FOLDERS, *UNSHAPED)))
        write_widths(widths)
        table = Table("rows of", "links", "gradients", "a message", "rows", "90 % interval")
        for key, width in sorted(widths.items()):
            table.add_row(
                key.what,
                "shaped" if key.shaped else "unshaped",
                "sparse" if key.sparse else "dense",
                "1 MB and more" if key.large else "below 1 MB",
                str(width.num_rows),
                f"+-{width.width:.1%}",
            )
        console.print(table)


if __name__ == "__main__":
    run(app)
