"""Style of figures: a colour and marker per topology, a line style per density; picture files."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf, log10
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from PIL import Image

from dgc_topo.files import write_whole
from dgc_topo.records.configuration import by_configuration
from dgc_topo.records.measurement import Measurement
from dgc_topo.text import printable
from dgc_topo.units import bytes_text, seconds_text

# Okabe and Ito's colours that are visible on white, then Tol's: distinct for any colour vision.
_COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9",
    "#332288", "#882255", "#999933", "#44AA99",
)  # fmt: skip
# Shapes with a visible filling; their number shares no factor with that of the colours.
_MARKERS = ("o", "s", "^", "D", "v", "<", ">", "p", "h", "d", "H")
LineStyle = str | tuple[int, tuple[float, ...]]
_DASHES: tuple[LineStyle, ...] = (
    "-",
    (0, (4, 1.6)),
    (0, (1.2, 1.4)),
    (0, (6, 1.5, 1.2, 1.5)),
)
#: Phases of a step in their order, with their colours.
PHASES = {
    "compute": "#4477AA",
    "compress": "#CCBB44",
    "communicate": "#EE6677",
    "wait": "#BBBBBB",
    "update": "#228833",
}
# Digits with ticks on an axis of at most this many decades; more labels would overlap.
_DIGITS = ((1.5, (1, 2, 5)), (2.5, (1, 3)), (inf, (1,)))
QUALITY_LABELS = {
    "accuracy": "test accuracy, %",
    "perplexity": "test perplexity",
    "loss": "test loss",
}
TEXT = "#222222"
FAINT = "#777777"
PALE = "#DDDDDD"
_SMALL = 9
_IN_A_ROW = 6  #: panels of a figure, or columns of a legend, at most
_WIDTH = 150  #: characters of a legend beside each other


Grid = Literal["x", "y", "both"]


@dataclass(frozen=True, slots=True)
class Styles:
    """Styles of topologies and densities, assigned in order of first appearance."""

    topologies: tuple[str, ...]
    densities: tuple[str, ...]

    @classmethod
    def of(cls, measurements: Iterable[Measurement]) -> Styles:
        """Return the styles for all plots of *measurements*."""
        found = list(by_configuration(measurements))
        topologies = dict.fromkeys(c.topology_label for c in found)
        densities = dict.fromkeys(c.density_label for c in found)
        # Dense lines are always solid.
        return cls(
            tuple(topologies),
            tuple(sorted(densities, key=lambda d: (d != "dense", not d.startswith("dense")))),
        )

    def colour(self, topology: str) -> str:
        """Return the colour of a topology label."""
        return _COLOURS[self.topologies.index(topology) % len(_COLOURS)]

    def tint(
        self, topology: str, density: str, floor: float = 0.35, colour: str | None = None
    ) -> str:
        """Return the topology's colour (or *colour*), paler by density down to *floor*."""
        last = max(len(self.densities) - 1, 1)
        share = 1 - (1 - floor) * self.densities.index(density) / last
        full = to_rgb(colour or self.colour(topology))
        red, green, blue = (1 - share * (1 - part) for part in full)
        return to_hex((red, green, blue))

    def marker(self, topology: str) -> str:
        """Return the marker of a topology label."""
        return _MARKERS[self.topologies.index(topology) % len(_MARKERS)]

    def dashes(self, density: str) -> LineStyle:
        """Return the line style of a density label."""
        return _DASHES[self.densities.index(density) % len(_DASHES)]


def short(text: str) -> str:
    """Return a number with its unit without trailing zeros: ``10 ms`` for ``10.0 ms``."""
    number, _, unit = text.partition(" ")
    return f"{float(number.replace(',', '')):,.12g} {unit}"


def nested_widths(count: int) -> list[float]:
    """Return line widths from wide to narrow, so that lines on top of each other all show."""
    return [1.4 + 2 * (count - 1 - index) / max(count - 1, 1) for index in range(count)]


class FewDecades(LogLocator):
    """Ticks at powers of ten, and between them where there are few."""

    def tick_values(self, vmin: float, vmax: float) -> Sequence[float]:
        """Return the places of the ticks, from below *vmin* to above *vmax*."""
        decades = log10(vmax / vmin) if 0 < vmin < vmax else inf
        self.set_params(subs=next(digits for most, digits in _DIGITS if decades <= most))
        return super().tick_values(vmin, vmax)


#: Texts of numbers on an axis.
PLAIN = FuncFormatter(lambda number, _: f"{number:g}")
FACTOR = FuncFormatter(lambda number, _: f"{number:g}" if number >= 1 else f"1/{1 / number:g}")
TIME = FuncFormatter(lambda seconds, _: short(seconds_text(seconds)))
BYTES = FuncFormatter(lambda value, _: short(bytes_text(value)))


def scale_by_powers(axes: Axes, which: Literal["x", "y"], texts: FuncFormatter) -> None:
    """Make an axis logarithmic: powers of two for factors, few ticks with units for the rest."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    base = 2 if texts is FACTOR else 10
    (axes.set_xscale if which == "x" else axes.set_yscale)("log", base=base)
    axis.set_major_locator(LogLocator(2, (1,)) if texts is FACTOR else FewDecades())
    axis.set_major_formatter(texts)
    axis.set_minor_formatter(NullFormatter())


class ShownFigure(Figure):
    """A figure that a notebook shows without pyplot, as a small image."""

    def _repr_png_(self) -> bytes:
        full, small = io.BytesIO(), io.BytesIO()
        self.savefig(full, format="png")
        # Few colours need few bytes: a quarter of what the same picture takes in true colour.
        Image.open(full).convert("RGB").quantize(128).save(small, format="png", optimize=True)
        return small.getvalue()


def new_figure(width: float, height: float, title: str) -> Figure:
    """Return an empty white figure of that many inches."""
    figure = ShownFigure(figsize=(width, height), layout="constrained", facecolor="white")
    heading = figure.suptitle(
        printable(title), x=0.01, ha="left", fontsize=12, fontweight="bold", color=TEXT
    )
    heading.set_parse_math(False)  # "$" is a character, as in all that is named
    return figure


def rows_of_panels(count: int) -> int:
    """Return in how many rows so many panels are, each wide enough to be read.

    Many panels are those of averaging rules, whose titles are long.
    """
    return 1 if count <= _IN_A_ROW else -(-count // 4)


def panels_of(
    figure: Figure, count: int, *, sharex: bool = False, sharey: bool = False
) -> list[Axes]:
    """Return panels side by side, in `rows_of_panels`."""
    rows = rows_of_panels(count)
    columns = -(-count // rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey)
    found = list(grid.flat)
    for axes in found[count:]:
        axes.remove()
    return found[:count]


def legend_name(name: str) -> str:
    """Return a name in a form that a legend shows; it would leave out a leading ``_``."""
    return f" {printable(name)}" if name.startswith("_") else printable(name)


def empty_figure(title: str, why: str) -> Figure:
    """Return a figure that says why there is nothing to draw."""
    figure = new_figure(10.5, 3, title)
    figure.text(0.5, 0.45, why, ha="center", fontsize=11, color=FAINT)
    return figure


def style_axes(
    axes: Axes, *, x: str = "", y: str = "", title: str = "", grid: Grid = "both"
) -> None:
    """Label *axes*, and remove ink without information."""
    axes.set_xlabel(x, fontsize=_SMALL + 1, color=TEXT)
    axes.set_ylabel(y, fontsize=_SMALL + 1, color=TEXT)
    named = axes.set_title(printable(title), loc="left", fontsize=_SMALL + 1, color=TEXT)
    named.set_parse_math(False)
    axes.tick_params(labelsize=_SMALL, colors=TEXT, length=3, color=FAINT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.grid(visible=True, axis=grid, color=PALE, linewidth=0.7)
    axes.set_axisbelow(True)


def name_rows(axes: Axes, topologies: Sequence[str]) -> None:
    """Turn the y axis into one row per topology, the first on top."""
    names = [printable(topology) for topology in topologies]
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_ylim(len(topologies) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def add_density_legend(figure: Figure, densities: Sequence[str], *, others: bool = False) -> None:
    """Add a legend of line styles and marker fills below; with *others*, of grey lines, too.

    The figure grows by its second and further rows.
    """
    styles = Styles(("",), tuple(densities))
    handles = [
        Line2D([], [], color=FAINT, ls=styles.dashes(density), marker="o", ms=7, mew=1.6,
               markerfacecolor=styles.tint("", density, floor=0, colour=FAINT))
        for density in densities
    ]  # fmt: skip
    labels = list(densities)
    if others and len(densities) > 1:
        handles.append(Line2D([], [], color=PALE, lw=1.4))
        labels.append("in grey: the other densities")
    columns = _legend_columns(labels)
    figure.set_figheight(figure.get_figheight() + 0.2 * ((len(labels) - 1) // columns))
    figure.legend(
        handles,
        labels,
        loc="outside lower left",
        ncols=columns,
        frameon=False,
        fontsize=9,
        handlelength=3.5,
    )


def _legend_columns(labels: Sequence[str]) -> int:
    """Return the number of columns in which the labels are no wider than a figure."""
    widths = sorted(len(label) + 9 for label in labels)  # in characters, with the handle
    if sum(widths[-_IN_A_ROW:]) <= _WIDTH:
        return _IN_A_ROW
    return max(1, _WIDTH // widths[-1])


def save_picture(figure: Figure, path: Path) -> None:
    """Write *figure* into exactly the file *path*, in the format that its suffix names."""
    picture = io.BytesIO()
    kind = path.suffix[1:].lower()
    # Without a date, the same figure is the same file.
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    with unknown_glyphs_as_boxes():
        figure.savefig(picture, format=kind, bbox_inches="tight", metadata=undated)
    write_whole(path, picture.getvalue())


@contextmanager
def unknown_glyphs_as_boxes() -> Iterator[None]:
    """Draw a character that the font lacks as a box, without a warning for each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield
