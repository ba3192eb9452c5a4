"""Animation of a schedule: a page, or a notebook's cell, that plays its steps without a server."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from html import escape
from itertools import islice
from pathlib import Path

from markupsafe import Markup

from dgc_topo.files import write_whole
from dgc_topo.report.draw import KINDS, check_drawable, contributions, kind_of
from dgc_topo.report.pages import render
from dgc_topo.schedule import Schedule, Step

_TEMPLATE = "animation.html.j2"
_MOST_STEPS = 64
_MOST_CELLS = 32  # chunks of a rank that can be told apart; the mean of all is shown of more
_MOST_LABELS = 64  # transfers of a step that can be read beside each other
_STEP_MS = 1400
_HEIGHT = 720  # pixels of a notebook's cell
_MEANINGS = {
    "reduce": "adds to the receiver's chunk",
    "copy": "replaces the receiver's chunk",
    "mix": "averages with weights",
}


class Animation:
    """Steps of a schedule, played one after the other.

    A notebook shows it; `save` writes it as a page.  It needs no server and loads nothing.
    """

    def __init__(self, schedule: Schedule, *, title: str = "") -> None:
        """Prepare the page.

        Args:
            schedule: Schedule of at most 64 ranks, of which the first 64 steps are shown.
            title: Heading; the schedule's size by default.

        Raises:
            ValueError: if there are more ranks than can be told apart.
        """
        check_drawable(schedule)
        steps = list(islice(schedule.steps(), _MOST_STEPS + 1))
        shown = steps[:_MOST_STEPS]
        self.title = title or repr(schedule)
        present = {kind_of(transfer) for step in shown for transfer in step}
        self.html = render(
            _TEMPLATE,
            title=self.title,
            steps=shown,
            more=len(steps) > len(shown),
            servers=schedule.servers,
            kinds=[(kind, KINDS[kind], _MEANINGS[kind]) for kind in KINDS if kind in present],
            data=Markup(_as_json(schedule, shown)),
        )

    def __repr__(self) -> str:
        """Return the title."""
        return f"Animation({self.title!r})"

    def save(self, path: str | Path) -> None:
        """Write the page into a file."""
        write_whole(Path(path), self.html)

    def _repr_html_(self) -> str:
        """Return the page inside a frame of its own, so that several do not disturb each other."""
        return (
            f'<iframe srcdoc="{escape(self.html)}" style="width: 100%; height: {_HEIGHT}px; '
            f'border: 0" title="{escape(self.title)}"></iframe>'
        )


def animate(schedule: Schedule, *, title: str = "") -> Animation:
    """Return an animation of a schedule, for a notebook or, with its `save`, for a browser.

    Args:
        schedule: Schedule of at most 64 ranks, of which the first 64 steps are shown.
        title: Heading; the schedule's size by default.

    Raises:
        ValueError: if there are more ranks than can be told apart.

    Example:
        >>> dt.animate(dt.load_topology("ring").schedule(4), title="ring of 4")
        Animation('ring of 4')
    """
    return Animation(schedule, title=title)


def _as_json(schedule: Schedule, steps: Sequence[Step]) -> str:
    """Return the data of the page; no text of a user is in it."""
    states = contributions(schedule, steps)
    if schedule.num_chunks > _MOST_CELLS:
        states = [state.mean(axis=1, keepdims=True) for state in states]
    data = {
        "ranks": schedule.world_size,
        "servers": [int(rank) for rank in schedule.servers],
        "kinds": KINDS,
        "labels": schedule.num_chunks > 1 and max(map(len, steps), default=0) <= _MOST_LABELS,
        "step_ms": _STEP_MS,
        "states": [state.round(4).tolist() for state in states],
        "steps": [
            [
                [int(each.src), int(each.dst), _chunks(each.chunk, each.chunk_end), kind_of(each)]
                for each in step
            ]
            for step in steps
        ],
        "said": [_said(step) for step in steps],
        "end": f"After {len(steps)} steps: {_end(schedule)}",
    }
    return json.dumps(data).replace("</", "<\\/")


def _chunks(begin: int, end: int) -> str:
    return str(begin) if end - begin == 1 else f"{begin}-{end - 1}"


def _said(step: Step) -> str:
    """Return what a step does, in words."""
    counts = Counter(kind_of(transfer) for transfer in step)
    parts = [f"{count} transfers {kind}" for kind, count in counts.items()]
    return (", ".join(parts) if parts else "nobody sends") + "."


def _end(schedule: Schedule) -> str:
    """Return what a schedule promises, in words."""
    if schedule.goal == "all-reduce":
        return "every rank holds the sum of all contributions."
    if schedule.goal == "part":
        return "the block is done; it promises nothing by itself."
    return "every rank holds a weighted average of what it had and of what it received."
