"""Plot of one simulated training step: what every rank does when."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from dgc_topo.report.style import FAINT, PHASES, dress, new_figure
from dgc_topo.simulation.training import StepRun
from dgc_topo.simulation.training.trace import chosen_ranks, spans_of

_ROWS = {"processor": (-0.2, 0.34), "network": (0.2, 0.34)}  # offset from the rank, and height
_SHOWN = ("compute", "compress", "communicate", "update")


def step_figure(result: StepRun, *, title: str = "", ranks: Sequence[int] | None = None) -> Figure:
    """Draw a simulated step: two bars per rank, its processor above its network.

    Args:
        result: From `simulate_training_step`.
        title: Heading; the time of the step by default.
        ranks: Which ranks; all if there are no more than 64.

    Raises:
        ValueError: if there are more ranks and none are chosen, or there is no such rank.
    """
    shown = list(chosen_ranks(result, ranks))
    title = title or f"Simulated: one training step, {1e3 * result.step_time_s:.4g} ms"
    figure = new_figure(10, min(1.9 + 0.42 * len(shown), 24), title)
    axes = figure.subplots()
    dress(axes, x="time, ms", y="rank", grid="x")
    for row, rank in enumerate(shown):
        for kind in _SHOWN:
            offset, height = _ROWS["network" if kind == "communicate" else "processor"]
            spans = [span for span in spans_of(result, rank) if span.kind == kind]
            axes.broken_barh(
                [(1e3 * span.start_s, 1e3 * (span.end_s - span.start_s)) for span in spans],
                (row + offset - height / 2, height),
                facecolor=PHASES[kind],
                edgecolor="white",
                lw=0.4,
            )
    axes.axvline(1e3 * result.step_time_s, color=FAINT, lw=1)
    axes.set_yticks(range(len(shown)), [str(rank) for rank in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlim(0, 1.02e3 * result.step_time_s)
    handles = [Patch(color=PHASES[kind], label=kind) for kind in _SHOWN]
    figure.legend(handles=handles, loc="outside lower left", ncols=4, frameon=False, fontsize=9)
    return figure
