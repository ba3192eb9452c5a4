"""Errors of the prediction model beside what is asked of it, from the committed validations.

``python -m benchmarks.model_errors`` prints a row per class, once over all rows, and once over the
calm ones: those whose repeats agree, so that a miss is the model's.  Where there are predictions of
the same rows by today's model, from the same probes, another row has these.  ``--worst N`` lists
the worst rows of each class, and ``--kinds`` the classes by topology and payload.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from rich.table import Table

from dgc_topo.cli.console import clear_errors, console
from dgc_topo.cli.streams import run
from dgc_topo.experiments.validation.records import ValidationRow, load_rows
from dgc_topo.units import bytes_text, rate_text, seconds_text

RESULTS = Path(__file__).parent / "results"
CALM = 0.03  #: distance of the quartiles of a row's repeats, relative

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Class(NamedTuple):
    """Rows of which something is asked.

    Attributes:
        name: Name in tables.
        folder: Validation that has them.
        large: True for rows from 1 MB on, False for those below; None for all.
        asked_95: Asked 95th percentile of the absolute errors.
        asked_worst: Asked worst one, if any.
        again: Folder of the same rows, predicted by today's model from the same probes.
    """

    name: str
    folder: str
    large: bool | None
    asked_95: float
    asked_worst: float | None = None
    again: str | None = None

    def rows(self) -> list[ValidationRow]:
        """Return its rows, with the predictions made before they were measured."""
        rows = load_rows(RESULTS / self.folder)
        return [row for row in rows if self.large is None or row.is_large == self.large]

    @property
    def today(self) -> Class:
        """The same rows with today's predictions, or those that there are."""
        name = f"{self.name}, predicted again" if self.again else self.name
        return self._replace(name=name, folder=self.again or self.folder)


_SHAPED, _SHAPED_AGAIN = "2026-11-29-validate-1gbe-scaled", "2026-11-30-predicted-again-shaped"

CLASSES = (
    Class("shaped, 1 MB and more", _SHAPED, True, 0.05, 0.10, _SHAPED_AGAIN),
    Class("shaped, below 1 MB", _SHAPED, False, 0.12, None, _SHAPED_AGAIN),
    Class(
        "unshaped",
        "2026-11-28-validate-unshaped",
        None,
        0.15,
        None,
        "2026-11-30-predicted-again-unshaped",
    ),
    Class("steps of a CNN", "2026-11-29-validate-steps", None, 0.05),
    Class("steps of ResNet-110", "2026-11-28-validate-emulated", None, 0.05),
    Class("steps of ResNet-110, overlapped", "2026-11-28-validate-overlapped", None, 0.05),
)


@app.command()
def model_errors(
    worst: Annotated[int, typer.Option(help="rows of each class to list, worst first", min=0)] = 0,
    kinds: Annotated[bool, typer.Option("--kinds", help="signed errors by kind of row")] = False,
    calm: Annotated[float, typer.Option(help="spread of repeats that agree", min=0)] = CALM,
) -> None:
    """Print the errors of predictions beside what is asked."""
    with clear_errors():
        console.print(_summary(calm))
        for each in CLASSES:
            if kinds:
                console.print(_by_kind(each.today))
            if worst:
                console.print(_worst(each.today, worst))


def _summary(calm: float) -> Table:
    table = Table("rows", "number", "median", "p95", "worst", "asked", "calm", "p95", "worst")
    for each in dict.fromkeys(each for own in CLASSES for each in (own, own.today)):
        rows = each.rows()
        settled = [row for row in rows if row.rounds > 1 and row.spread <= calm]
        asked = f"p95 {each.asked_95:.0%}"
        asked += f", worst {each.asked_worst:.0%}" if each.asked_worst is not None else ""
        table.add_row(each.name, *_numbers(rows), asked, *_without_median(settled))
    table.caption = f"calm: the quartiles of a row's repeats are at most {calm:.0%} apart"
    return table


def _numbers(rows: Sequence[ValidationRow]) -> Iterator[str]:
    """Yield the number of rows, and median, 95th percentile and worst of their errors."""
    errors = np.abs([row.error for row in rows])
    yield str(len(rows))
    for share in (50, 95, 100):
        yield f"{float(np.percentile(errors, share)):.1%}" if rows else "-"


def _without_median(rows: Sequence[ValidationRow]) -> Iterator[str]:
    number, _, *others = _numbers(rows)
    yield from (number, *others)


def _by_kind(each: Class) -> Table:
    """Return the mean signed and the largest absolute error by topology and payload."""
    table = Table(each.name, "payload", "number", "mean", "largest", "median spread")
    rows = each.rows()
    for kind in sorted({(row.name, row.payload) for row in rows}):
        some = [row for row in rows if (row.name, row.payload) == kind]
        errors = [row.error for row in some]
        spread = float(np.median([row.spread for row in some]))
        numbers = f"{np.mean(errors):+.1%}", f"{np.abs(errors).max():.1%}", f"{spread:.1%}"
        table.add_row(*kind, str(len(some)), *numbers)
    return table


def _worst(each: Class, number: int) -> Table:
    """Return the rows with the largest errors."""
    table = Table(
        each.name, "ranks", "links", "payload", "measured", "predicted", "error", "spread"
    )
    for row in sorted(each.rows(), key=lambda row: -abs(row.error))[:number]:
        table.add_row(
            row.name,
            str(row.world_size),
            rate_text(row.rate_bits_per_s),
            bytes_text(row.num_bytes) if row.payload == "dense" else row.payload,
            seconds_text(row.measured_s),
            seconds_text(row.predicted_s),
            f"{row.error:+.1%}",
            f"{row.spread:.1%}",
        )
    return table


if __name__ == "__main__":
    run(app)
