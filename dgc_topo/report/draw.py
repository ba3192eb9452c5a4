"""Drawings: a schedule in space and time or as a graph, and the timeline of a simulated step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from math import pi

import networkx as nx
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Patch

from dgc_topo.report.style import FAINT, PALE, PHASES, TEXT, new_figure, style_axes
from dgc_topo.schedule import Schedule, Step, Transfer
from dgc_topo.simulation.training import StepRun
from dgc_topo.simulation.training.trace import chosen_ranks, spans_of

#: Colour of each kind of transfer.
KINDS = {"reduce": "#0072B2", "copy": "#D55E00", "mix": "#009E73"}
_FILL = LinearSegmentedColormap.from_list("share", ["#FFFFFF", "#C9C3E6", "#7A6BB8", "#2B1A6B"])
_MAX_RANKS = 64
_ROOMY = 24  # ranks for which a small picture has room
_CIRCLE = 0.72  # diameter of the circle of ranks over the width of its picture
_MAX_LABELS = 80  # more chunk labels than this overlap
_MAX_CELLS = 16  # more chunks than this are too narrow to see
_MAX_EDGES = 8  # more chunks than this are drawn without lines between them
_STRIP = 0.34  # width of a rank's chunks, in steps
_STEP_PHASES = ("compute", "compress", "communicate", "update")
_BARS = {"processor": -0.2, "network": 0.2}  # how far a bar is from its rank's line
_BAR = 0.34  # height of a bar


def draw_schedule(schedule: Schedule, *, title: str = "", max_steps: int = 32) -> Figure:
    """Draw a schedule in space and time: ranks as rows, steps from left to right.

    Arrows are transfers, coloured by what the receiver does, with the chunks they carry.  The
    squares on a rank's line are its chunks: the darker, the more ranks have contributed.

    Args:
        schedule: What to draw, of at most 64 ranks.
        title: Heading; the schedule's size by default.
        max_steps: Steps to draw; the title says when there are more.

    Raises:
        ValueError: if there are more ranks than a drawing can show.
    """
    check_drawable(schedule)
    steps = list(islice(schedule.steps(), max_steps + 1))
    more = len(steps) > max_steps
    steps = steps[:max_steps]
    num_ranks = schedule.world_size
    figure = new_figure(
        min(max(2.2 + 1.5 * len(steps), 7), 24),
        min(1.6 + 0.75 * num_ranks, 24),
        title or _size(schedule),
    )
    axes = figure.subplots()
    states = contributions(schedule, steps)
    for time, state in enumerate(states):
        _draw_state(axes, time, state, schedule)
    labelled = schedule.num_chunks > 1 and sum(map(len, steps)) <= _MAX_LABELS
    for time, step in enumerate(steps):
        for transfer in step:
            _draw_transfer(axes, time, transfer, labelled=labelled)
    _label_axes(axes, len(steps), schedule, more=more)
    _legend(figure, steps)
    return figure


def draw_graph(schedule: Schedule, *, title: str = "") -> Figure:
    """Draw the graph of all transfers; the width of an arrow shows the bytes between two ranks.

    Args:
        schedule: What to draw, of at most 64 ranks.
        title: Heading; the schedule's size by default.

    Raises:
        ValueError: if there are more ranks than a drawing can show.
    """
    check_drawable(schedule)
    graph = communication_graph(schedule)
    inches = 5.4 if schedule.world_size <= _ROOMY else 8.5
    figure = new_figure(inches, inches + 0.2, title or _size(schedule))
    shares: list[tuple[int, int, float]] = list(graph.edges(data="buffers"))
    edges = {(src, dst): share for src, dst, share in shares}
    draw_edges(figure.subplots(), edges, schedule)
    figure.supxlabel(
        f"the widest arrow carries {max(edges.values(), default=1.0):.3g} x the buffer"
        f"{'; squares are servers' if schedule.servers else ''}",
        fontsize=9,
        color=TEXT,
    )
    return figure


def draw_edges(
    axes: Axes, edges: Mapping[tuple[int, int], float], schedule: Schedule
) -> dict[int, tuple[float, float]]:
    """Draw ranks in a circle and an arrow per edge, as wide as its number; return their places."""
    ranks: nx.Graph[int] = nx.empty_graph(schedule.world_size)
    # Coordinates swapped: rank 0 on top, the others clockwise.
    places = {rank: (float(x), float(y)) for rank, (y, x) in nx.circular_layout(ranks).items()}
    largest = max(edges.values(), default=1.0) or 1.0
    size = _circle_points(axes, schedule.world_size)
    for (src, dst), number in edges.items():
        arrow = FancyArrowPatch(
            places[src],
            places[dst],
            connectionstyle="arc3,rad=0.12",  # both directions stay visible
            arrowstyle="-|>",
            mutation_scale=min(11, 0.6 * size),
            shrinkA=size / 2 + 1.5,
            shrinkB=size / 2 + 1.5,
            lw=0.7 + 2.3 * number / largest,
            color=KINDS["reduce"],
            alpha=0.75,
        )
        axes.add_patch(arrow)
    for rank, (x, y) in places.items():
        shape = "s" if rank in schedule.servers else "o"
        axes.plot(x, y, shape, ms=size, color="white", mec=TEXT, mew=min(1.4, size / 12))
        axes.text(
            x, y, str(rank), ha="center", va="center", fontsize=min(10, 0.5 * size), color=TEXT
        )
    axes.set_aspect("equal")
    axes.margins(0.14)
    axes.set_axis_off()
    return places


def _circle_points(axes: Axes, num_ranks: int) -> float:
    """Return the diameter of a rank, in points, at which neighbours on the circle do not touch."""
    box = axes.figure.bbox
    inches = min(box.width, box.height) / axes.figure.dpi
    round_about = 72 * pi * _CIRCLE * inches
    return min(23.0, 0.85 * round_about / num_ranks)


def step_figure(result: StepRun, *, title: str = "", ranks: Sequence[int] | None = None) -> Figure:
    """Draw a simulated step: two bars per rank, its processor above its network.

    Args:
        result: From `simulate_training_step`.
        title: Heading; the time of what is drawn by default.
        ranks: Ranks to draw; all if there are no more than 64.

    Raises:
        ValueError: if there are more ranks and none are chosen, or there is no such rank.
    """
    shown = list(chosen_ranks(result, ranks))
    what = "one training step" if result.every == 1 else f"{result.every} training steps"
    title = title or f"Simulated: {what}, {1e3 * result.period_s:.4g} ms"
    figure = new_figure(10, min(1.9 + 0.42 * len(shown), 24), title)
    axes = figure.subplots()
    style_axes(axes, x="time, ms", y="rank", grid="x")
    for row, rank in enumerate(shown):
        for kind in _STEP_PHASES:
            offset = _BARS["network" if kind == "communicate" else "processor"]
            spans = [span for span in spans_of(result, rank) if span.kind == kind]
            axes.broken_barh(
                [(1e3 * span.start_s, 1e3 * (span.end_s - span.start_s)) for span in spans],
                (row + offset - _BAR / 2, _BAR),
                facecolor=PHASES[kind],
                # A short message is still seen by its edge.
                edgecolor=PHASES[kind] if kind == "communicate" else "white",
                lw=0.4,
            )
    axes.axvline(1e3 * result.period_s, color=FAINT, lw=1)
    axes.set_yticks(range(len(shown)), [str(rank) for rank in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlim(0, 1.02e3 * result.period_s)
    handles = [Patch(color=PHASES[kind], label=kind) for kind in _STEP_PHASES]
    figure.legend(handles=handles, loc="outside lower left", ncols=4, frameon=False, fontsize=9)
    return figure


def communication_graph(schedule: Schedule) -> nx.DiGraph[int]:
    """Return the graph of all transfers; an edge's attribute ``buffers`` is its whole buffers."""
    sent: Counter[tuple[int, int]] = Counter()
    for step in schedule.steps():
        for src, dst, count in zip(step.src, step.dst, step.count, strict=True):
            sent[int(src), int(dst)] += int(count)
    graph: nx.DiGraph[int] = nx.DiGraph()
    graph.add_nodes_from(range(schedule.world_size))
    for (src, dst), count in sent.items():
        graph.add_edge(src, dst, buffers=count / schedule.num_chunks)
    return graph


def contributions(schedule: Schedule, steps: Sequence[Step]) -> list[npt.NDArray[np.float64]]:
    """Return, before and after every step, the share of contributors inside each chunk.

    Shape of each: (world_size, num_chunks).
    """
    num_ranks, total = schedule.world_size, max(len(schedule.contributors), 1)
    inside = np.zeros((num_ranks, schedule.num_chunks, num_ranks), dtype=bool)
    for rank in schedule.contributors:
        inside[rank, :, rank] = True
    shares = [inside.sum(axis=2) / total]
    for step in steps:
        before = inside.copy()
        for transfer in step:
            run = slice(transfer.chunk, transfer.chunk_end)
            sent = before[transfer.src, run]
            inside[transfer.dst, run] = sent | (
                inside[transfer.dst, run] if transfer.keep else False
            )
        shares.append(inside.sum(axis=2) / total)
    return shares


def _draw_state(axes: Axes, time: int, shares: npt.NDArray[np.float64], schedule: Schedule) -> None:
    if schedule.num_chunks > _MAX_CELLS:
        shares = shares.mean(axis=1, keepdims=True)
    width = _STRIP / shares.shape[1]
    for (rank, chunk), share in np.ndenumerate(shares):
        axes.barh(
            rank,
            width,
            0.3,
            left=time - _STRIP / 2 + chunk * width,
            color=_FILL(float(share)),
            edgecolor=FAINT,
            lw=0.6 if shares.shape[1] <= _MAX_EDGES else 0,
            zorder=4,
        )


def _draw_transfer(axes: Axes, time: int, transfer: Transfer, *, labelled: bool) -> None:
    start = (time + _STRIP / 2 + 0.02, transfer.src)
    end = (time + 1 - _STRIP / 2 - 0.02, transfer.dst)
    colour = KINDS[kind_of(transfer)]
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=11,
            lw=1.4,
            color=colour,
            zorder=3,
            shrinkA=0,
            shrinkB=0,
        )
    )
    if labelled:
        # Arrows cross in the middle: labels sit a third of a row away from the sender.
        at = 0.32 / abs(transfer.dst - transfer.src)
        axes.text(
            start[0] + at * (end[0] - start[0]),
            start[1] + at * (end[1] - start[1]),
            _chunks(transfer),
            fontsize=7.5,
            color=colour,
            ha="center",
            va="center",
            zorder=5,
            bbox={"boxstyle": "round,pad=0.12", "fc": "white", "ec": "none", "alpha": 0.9},
        )


def _label_axes(axes: Axes, num_steps: int, schedule: Schedule, *, more: bool) -> None:
    for rank in range(schedule.world_size):
        axes.axhline(rank, color=PALE, lw=1, zorder=1)
    ranks = range(schedule.world_size)
    names = [f"{rank} (server)" if rank in schedule.servers else str(rank) for rank in ranks]
    axes.set_yticks(ranks, names, fontsize=9)
    axes.set_ylim(schedule.world_size - 0.5, -0.5)
    axes.set_xlim(-0.4, num_steps + 0.4)
    axes.set_xticks([step + 0.5 for step in range(num_steps)], [str(s) for s in range(num_steps)])
    axes.set_xlabel("step" + (" (more follow)" if more else ""), fontsize=10, color=TEXT)
    axes.set_ylabel("rank", fontsize=10, color=TEXT)
    axes.tick_params(length=0, labelsize=9, colors=TEXT)
    axes.spines[:].set_visible(False)


def _legend(figure: Figure, steps: Sequence[Step]) -> None:
    meanings = {
        "reduce": "reduce: add to the receiver's chunk",
        "copy": "copy: replace the receiver's chunk",
        "mix": "mix: weighted average",
    }
    present = {kind_of(transfer) for step in steps for transfer in step}
    handles = [
        Line2D([], [], color=KINDS[kind], lw=2, label=meanings[kind])
        for kind in KINDS
        if kind in present
    ]
    handles += [
        Line2D([], [], ls="none", marker="s", ms=8, mec=FAINT, mfc=_FILL(share), label=label)
        for share, label in ((0.25, "chunk with few contributions"), (1.0, "with all"))
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=3, frameon=False, fontsize=9)


def kind_of(transfer: Transfer) -> str:
    """Return ``reduce``, ``copy`` or ``mix``."""
    if transfer.weight != 1:
        return "mix"
    return "reduce" if transfer.keep else "copy"


def _chunks(transfer: Transfer) -> str:
    if transfer.count == 1:
        return str(transfer.chunk)
    return f"{transfer.chunk}-{transfer.chunk_end - 1}"


def _size(schedule: Schedule) -> str:
    ranks = "1 rank" if schedule.world_size == 1 else f"{schedule.world_size} ranks"
    chunks = "1 chunk" if schedule.num_chunks == 1 else f"{schedule.num_chunks} chunks"
    return f"Schedule of {ranks} and {chunks}"


def check_drawable(schedule: Schedule) -> None:
    """Raise ValueError if a schedule has more ranks than a drawing can show."""
    if schedule.world_size > _MAX_RANKS:
        raise ValueError(
            f"drawing: {schedule.world_size} ranks, expected at most {_MAX_RANKS} "
            "(more than that is unreadable; the pattern shows at 8)"
        )
