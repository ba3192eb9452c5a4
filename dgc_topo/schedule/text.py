"""The text form of a schedule, with its inverse, and the step-by-rank grid for error messages.

One line per transfer::

    schedule world_size=4 num_chunks=4 goal=all-reduce servers=-
    step 0
      0 -> 1 chunk 0 reduce
      1 -> 2 chunks 2..3 copy
      3 -> 0 chunk 3 keep=1/3 weight=2/3
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from typing import cast, get_args

from dgc_topo.schedule.schedule import Goal, Schedule
from dgc_topo.schedule.step import ScheduleError, Step, Transfer, copy, gather, mix, reduce

_HEAD = re.compile(
    r"schedule world_size=(\d+) num_chunks=(\d+) goal=([\w-]+) servers=(-|\d+(?:,\d+)*)"
)
_LINE = re.compile(
    r"(\d+) -> (\d+) chunks? (\d+)(?:\.\.(\d+))? "
    r"(?:(reduce|copy)|keep=(-?\d+(?:/\d+)?) weight=(-?\d+(?:/\d+)?))"
)
_SHOWN_PER_CELL = 2
_SIGNS = {(1, 1): "+", (0, 1): "="}
_KINDS = {(1, 1): "reduce", (0, 1): "copy"}


def format_schedule(schedule: Schedule) -> str:
    """Return the text form of *schedule*; `parse_schedule` is its inverse."""
    servers = ",".join(map(str, schedule.servers)) or "-"
    lines = [
        f"schedule world_size={schedule.world_size} num_chunks={schedule.num_chunks} "
        f"goal={schedule.goal} servers={servers}"
    ]
    for index, step in enumerate(schedule.steps()):
        lines.append(f"step {index}")
        lines.extend(f"  {_format_transfer(transfer)}" for transfer in step)
    return "\n".join(lines) + "\n"


def parse_schedule(text: str) -> Schedule:
    """Return the schedule that *text* describes.

    Raises:
        ScheduleError: naming the line that is not as `format_schedule` writes it.
    """
    lines = [(n, line.strip()) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    head = _HEAD.fullmatch(lines[0][1]) if lines else None
    if head is None or head[3] not in get_args(Goal):
        raise ScheduleError(
            "line 1: expected 'schedule world_size=N num_chunks=N goal=GOAL servers=-' with GOAL "
            f"one of {', '.join(get_args(Goal))}"
        )
    steps: list[list[Step]] = []
    for number, line in lines[1:]:
        if line == f"step {len(steps)}":
            steps.append([])
        elif steps and (match := _LINE.fullmatch(line)):
            try:
                steps[-1].append(_parse_transfer(match))
            except (ScheduleError, ZeroDivisionError) as error:
                raise ScheduleError(f"line {number}: {line!r}: {error}") from error
        else:
            raise ScheduleError(
                f"line {number}: {line!r}, expected 'step {len(steps)}' or a transfer such as "
                "'0 -> 1 chunk 2 reduce'"
            )
    servers = () if head[4] == "-" else tuple(map(int, head[4].split(",")))
    return Schedule.from_steps(
        int(head[1]),
        int(head[2]),
        [gather(step) for step in steps],
        goal=cast("Goal", head[3]),
        servers=servers,
    )


def format_grid(
    schedule: Schedule, *, mark: tuple[int, int] | None = None, max_steps: int = 12
) -> str:
    """Return a table with a row per step and a column per rank: what each rank sends.

    ``+3>1`` adds chunk 3 to rank 1's, ``=3>1`` overwrites, ``~3>1`` mixes.

    Args:
        schedule: What to show.
        mark: A (step, rank) to point at; the table shows the steps and ranks around it.
        max_steps: Most rows (and ranks) shown.
    """
    first_step = max(0, mark[0] - max_steps // 2) if mark else 0
    first_rank = max(0, mark[1] - max_steps // 2) if mark else 0
    ranks = range(first_rank, min(first_rank + max_steps, schedule.world_size))
    rows = [
        [f"step {index}", *(_cell(step, rank) for rank in ranks)]
        for index, step in islice(enumerate(schedule.steps()), first_step, first_step + max_steps)
    ]
    head = ["", *(f"rank {rank}" for rank in ranks)]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    return "\n".join(_grid_lines(head, rows, widths, mark))


def _grid_lines(
    head: list[str], rows: list[list[str]], widths: list[int], mark: tuple[int, int] | None
) -> Iterator[str]:
    for row in [head, *rows]:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        here = mark is not None and row[0] == f"step {mark[0]}"
        yield f"{line}  <-- here, rank {mark[1]}" if here and mark else line.rstrip()


def _cell(step: Step, rank: int) -> str:
    sent = step.select(step.src == rank)
    shown = [f"{_sign(t)}{_chunks(t)}>{t.dst}" for t in islice(sent, _SHOWN_PER_CELL)]
    more = [f"(+{len(sent) - len(shown)})"] if len(sent) > len(shown) else []
    return " ".join(shown + more) or "."


def _sign(transfer: Transfer) -> str:
    return _SIGNS.get((int(transfer.keep), int(transfer.weight)), "~") if _whole(transfer) else "~"


def _whole(transfer: Transfer) -> bool:
    return transfer.keep.denominator == transfer.weight.denominator == 1


def _chunks(transfer: Transfer) -> str:
    last = transfer.chunk_end - 1
    return str(last) if transfer.count == 1 else f"{transfer.chunk}..{last}"


def _format_transfer(t: Transfer) -> str:
    kind = _KINDS.get((int(t.keep), int(t.weight))) if _whole(t) else None
    noun = "chunk" if t.count == 1 else "chunks"
    return f"{t.src} -> {t.dst} {noun} {_chunks(t)} {kind or f'keep={t.keep} weight={t.weight}'}"


def _parse_transfer(match: re.Match[str]) -> Step:
    src, dst, first = int(match[1]), int(match[2]), int(match[3])
    count = int(match[4] or first) - first + 1
    if match[5]:
        kind = reduce if match[5] == "reduce" else copy
        return kind(src, dst, first, count)
    kept, weight = Fraction(match[6]), Fraction(match[7])
    denominator = math.lcm(kept.denominator, weight.denominator)
    return mix(
        src,
        dst,
        first,
        count,
        weight=int(weight * denominator),
        keep=int(kept * denominator),
        denominator=denominator,
    )
