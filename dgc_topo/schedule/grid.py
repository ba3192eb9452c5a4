"""The grid of a schedule: a row per step, a column per rank, and what each rank sends.

``+3>1`` adds chunk 3 to rank 1's, ``=3>1`` overwrites it, ``~3>1`` mixes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape
from itertools import islice

from dgc_topo.schedule.step import Step, Transfer
from dgc_topo.text import html_table

LEGEND = "+3>1 adds chunk 3 to rank 1's, =3>1 overwrites, ~3>1 mixes; . sends nothing"
_SHOWN_PER_CELL = 2
_SIGNS = {(1, 1): "+", (0, 1): "="}


@dataclass(frozen=True, slots=True)
class Grid:
    """A window of steps and ranks.

    Attributes:
        head: An empty cell, then the ranks' names.
        rows: Per step its name, then what each rank sends.
        mark: Step and rank to point at, if any.
        hidden: True if there are steps or ranks beyond the window.
    """

    head: list[str]
    rows: list[list[str]]
    mark: tuple[int, int] | None
    hidden: bool

    def __str__(self) -> str:
        widths = [
            max(len(row[i]) for row in [self.head, *self.rows]) for i in range(len(self.head))
        ]
        return "\n".join([*self._lines(widths), f"({LEGEND})"])

    def _lines(self, widths: list[int]) -> Iterator[str]:
        for row in [self.head, *self.rows]:
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            here = self.mark is not None and row[0] == f"step {self.mark[0]}"
            yield f"{line}  <-- here, rank {self.mark[1]}" if here and self.mark else line.rstrip()

    def to_html(self) -> str:
        """Return an HTML table with a legend."""
        more = "; more steps or ranks are not shown" if self.hidden else ""
        return f"{html_table(self.head, self.rows)}<small>{escape(LEGEND)}{more}</small>"


def grid_of(
    steps: Iterable[Step],
    world_size: int,
    *,
    mark: tuple[int, int] | None = None,
    most: int = 12,
) -> Grid:
    """Return the grid of a schedule's steps, or the part of it around a mark.

    Args:
        steps: Of all ranks.
        world_size: Number of ranks.
        mark: A (step, rank) to point at.
        most: Most rows, and most ranks.
    """
    first_step = max(0, mark[0] - most // 2) if mark else 0
    first_rank = max(0, mark[1] - most // 2) if mark else 0
    ranks = range(first_rank, min(first_rank + most, world_size))
    window = list(islice(enumerate(steps), first_step, first_step + most + 1))
    rows = [
        [f"step {index}", *(_cell(step, rank) for rank in ranks)] for index, step in window[:most]
    ]
    hidden = first_step > 0 or len(window) > most or len(ranks) < world_size
    return Grid(["", *(f"rank {rank}" for rank in ranks)], rows, mark, hidden)


def _cell(step: Step, rank: int) -> str:
    sent = step.select(step.src == rank)
    shown = [f"{_sign(t)}{chunks_text(t)}>{t.dst}" for t in islice(sent, _SHOWN_PER_CELL)]
    more = [f"(+{len(sent) - len(shown)})"] if len(sent) > len(shown) else []
    return " ".join(shown + more) or "."


def _sign(transfer: Transfer) -> str:
    return (
        _SIGNS.get((int(transfer.keep), int(transfer.weight)), "~") if is_whole(transfer) else "~"
    )


def is_whole(transfer: Transfer) -> bool:
    """Return True if a transfer's factors are whole numbers."""
    return transfer.keep.denominator == transfer.weight.denominator == 1


def chunks_text(transfer: Transfer) -> str:
    """Return a transfer's chunks as text: ``3``, or ``3..5``."""
    last = transfer.chunk_end - 1
    return str(last) if transfer.count == 1 else f"{transfer.chunk}..{last}"
