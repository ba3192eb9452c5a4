"""Drawing of the bytes that each pair of ranks moves in a step."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from dgc_topo.report.draw import draw_edges
from dgc_topo.report.style import TEXT, new_figure
from dgc_topo.schedule import Schedule
from dgc_topo.units import bytes_text

_MOST_LABELS = 24  # more would cover each other
_AT = 0.36  # of the way from the sender: labels of both directions stay apart


def traffic_figure(
    edges: Mapping[tuple[int, int], float], schedule: Schedule, *, title: str = ""
) -> Figure:
    """Draw the ranks and the bytes between them, as widths of arrows and in words.

    Args:
        edges: Bytes by sender and receiver, such as from `bytes_per_edge`.
        schedule: Schedule that moves them, for its ranks and servers.
        title: Heading; the sum by default.
    """
    title = title or f"{bytes_text(sum(edges.values()))} per step over {len(edges)} directed edges"
    figure = new_figure(6.4, 6.4, title)
    axes = figure.subplots()
    places = draw_edges(axes, edges, schedule)
    largest = max(edges.values(), default=0.0)
    if len(edges) > _MOST_LABELS:
        note = f"the widest arrow carries {bytes_text(largest)}"
    else:
        note = "bytes beside each arrow, nearer to its sender"
        for (src, dst), num_bytes in edges.items():
            (x0, y0), (x1, y1) = places[src], places[dst]
            # Arrows bend to the left of their way by this share of its length.
            bend = 0.075
            x = x0 + _AT * (x1 - x0) + bend * (y1 - y0)
            y = y0 + _AT * (y1 - y0) - bend * (x1 - x0)
            box = {"boxstyle": "round,pad=0.12", "fc": "white", "ec": "none", "alpha": 0.85}
            text = bytes_text(num_bytes)
            axes.text(x, y, text, fontsize=7.5, ha="center", va="center", color=TEXT, bbox=box)
    servers = "; squares are servers" if schedule.servers else ""
    figure.supxlabel(note + servers, fontsize=9, color=TEXT)
    return figure
