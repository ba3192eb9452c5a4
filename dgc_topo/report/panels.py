"""Parts that several plots share: rows named after topologies, and the legend of densities."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dgc_topo.records.configuration import Configuration
from dgc_topo.report.style import FAINT, PALE, Styles, dress
from dgc_topo.text import printable


def topologies_of(configurations: Iterable[Configuration]) -> list[str]:
    """Return the topology labels, in order of appearance."""
    return list(dict.fromkeys(configuration.topology_label for configuration in configurations))


def densities_of(configurations: Iterable[Configuration], styles: Styles) -> list[str]:
    """Return the density labels, dense first."""
    found = {configuration.density_label for configuration in configurations}
    return [density for density in styles.densities if density in found]


def name_rows(axes: Axes, topologies: Sequence[str]) -> None:
    """Turn the y axis into one row per topology, the first on top."""
    names = [printable(topology) for topology in topologies]
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_ylim(len(topologies) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def ending_panel(
    axes: Axes, points: Iterable[tuple[Configuration, float]], styles: Styles, *, x: str, title: str
) -> None:
    """Draw where the lines beside it end: one row per topology, the names on the right.

    Lines may lie on top of each other, rows cannot; the names make it the legend of its figure.
    """
    points = list(points)
    topologies = topologies_of(configuration for configuration, _ in points)
    dress(axes, x=x, title=title)
    densities = densities_of((configuration for configuration, _ in points), styles)
    for configuration, value in points:
        name = configuration.topology_label
        slot = densities.index(configuration.density_label) - (len(densities) - 1) / 2
        axes.plot(
            value,
            topologies.index(name) + 0.5 * slot / len(densities),  # equal values stay apart
            ls="none",
            marker=styles.marker(name),
            color=styles.colour(name),
            markerfacecolor=styles.tint(name, configuration.density_label, floor=0),
            ms=7,
            mew=1.8,
        )
    name_rows(axes, topologies)
    axes.yaxis.tick_right()
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.1)


def density_legend(figure: Figure, densities: Sequence[str], *, others: bool = False) -> None:
    """Say below what line styles and marker fills mean; *others*: and the grey lines."""
    styles = Styles(("",), tuple(densities))
    handles = [
        Line2D(
            [],
            [],
            color=FAINT,
            ls=styles.dashes(density),
            marker="o",
            ms=7,
            mew=1.6,
            markerfacecolor=styles.tint("", density, floor=0, colour=FAINT),
        )
        for density in densities
    ]
    labels = list(densities)
    if others and len(densities) > 1:
        handles.append(Line2D([], [], color=PALE, lw=1.4))
        labels.append("in grey: the other densities")
    figure.legend(
        handles,
        labels,
        loc="outside lower left",
        ncols=6,
        frameon=False,
        fontsize=9,
        handlelength=3.5,
    )
