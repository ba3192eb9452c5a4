"""The text form of a schedule, and its inverse.

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
from fractions import Fraction
from typing import cast, get_args

from dgc_topo.schedule.grid import chunks_text, is_whole
from dgc_topo.schedule.schedule import Goal, Schedule
from dgc_topo.schedule.step import ScheduleError, Step, Transfer, copy, gather, mix, reduce

_HEAD = re.compile(
    r"schedule world_size=(\d+) num_chunks=(\d+) goal=([\w-]+) servers=(-|\d+(?:,\d+)*)"
)
_LINE = re.compile(
    r"(\d+) -> (\d+) chunks? (\d+)(?:\.\.(\d+))? "
    r"(?:(reduce|copy)|keep=(-?\d+(?:/\d+)?) weight=(-?\d+(?:/\d+)?))"
)
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


def _format_transfer(t: Transfer) -> str:
    kind = _KINDS.get((int(t.keep), int(t.weight))) if is_whole(t) else None
    noun = "chunk" if t.count == 1 else "chunks"
    return (
        f"{t.src} -> {t.dst} {noun} {chunks_text(t)} {kind or f'keep={t.keep} weight={t.weight}'}"
    )


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
