import io
from itertools import pairwise
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.text import Text

from dgc_topo.records.configuration import measured, predicted
from dgc_topo.report.draw import communication_graph, draw_graph, draw_schedule
from dgc_topo.report.plots import (
    phases_figure,
    quality_figure,
    speedup_figure,
    step_time_figure,
    wire_bytes_figure,
)
from dgc_topo.report.style import Styles, legend_name, save_picture
from dgc_topo.report.validation import error_figure
from dgc_topo.schedule import Schedule, copy, mix, reduce
from dgc_topo.topology import load_topology
from tests.records import row
from tests.report.synthetic import TOPOLOGIES, measurements

FIGURES = {
    quality_figure: ("epoch", "test accuracy, %"),
    phases_figure: ("median time, ms", "topology"),
    wire_bytes_figure: ("bytes per step (logarithmic)", "topology"),
    speedup_figure: ("world size (ranks)", "speed-up"),
    step_time_figure: ("world size (ranks)", "step time"),
}


@pytest.fixture(scope="module", params=FIGURES, ids=lambda make: make.__name__)
def make(request):
    return request.param


def texts(figure):
    return [text.get_text() for text in figure.findobj(mpl.text.Text)]


def test_axes_are_labelled_with_units(make, records):
    figure = make(records)
    first = figure.axes[0]
    assert (first.get_xlabel(), first.get_ylabel()) == FIGURES[make]
    assert all(axes.get_xlabel() for axes in figure.axes)
    title = "Predicted: " if make in (speedup_figure, step_time_figure) else "Measured: "
    assert figure.get_suptitle().startswith(title)


def test_many_averaging_rules_have_panels_wide_enough_to_be_read(make, records):
    few = [record for record in records if record.topology in {"ring", "mesh"}]
    many = [
        record.model_copy(update={"averaging": f"sparse-loco:every={every}", "every": every})
        for record in few
        for every in range(2, 12)
    ]
    figure = make([*few, *many])
    figure.draw_without_rendering()
    inches = [axes.get_window_extent().size / figure.dpi for axes in figure.axes]
    assert min(width for width, _ in inches) > 0.9
    assert min(height for _, height in inches) > 0.6
    [legend] = figure.legends or [None]
    assert legend is None or legend.get_window_extent().width < figure.bbox.width


def test_every_topology_is_named(make, records):
    figure = make(records)
    figure.draw_without_rendering()
    shown = "\n".join(texts(figure))
    assert all(name in shown for name, _ in TOPOLOGIES)
    assert "dgc 0.1 %" in shown


def test_nothing_to_draw_says_so(make, records):
    other = measured if make in (speedup_figure, step_time_figure) else predicted
    for nothing in ([], other(records)):
        figure = make(nothing)
        assert any(text.startswith("no ") for text in texts(figure))


def test_drawing_leaves_matplotlib_as_it_was(make, records):
    before = dict(mpl.rcParams)
    make(records).savefig(io.BytesIO(), format="png", dpi=20)
    assert dict(mpl.rcParams) == before


def test_one_panel_per_network_with_the_ideal_line(records):
    figure = speedup_figure(records)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["on 1gbe", "at 64 ranks", "on ib-edr", "at 64 ranks"]
    assert figure.axes[0].get_xscale() == "log"
    assert list(figure.axes[0].get_xticks()) == [4, 8, 16, 32, 64]
    assert "ideal" in texts(figure)


def test_topologies_keep_colour_and_densities_keep_style(records):
    styles = Styles.of(records)
    assert len({(styles.colour(t), styles.marker(t)) for t in styles.topologies}) == 9
    lines = {line.get_label(): line for line in speedup_figure(records).axes[0].lines}
    dense, sparse = lines["ring, dense"], lines["ring, dgc 0.1 %"]
    assert dense.get_color() == sparse.get_color() == styles.colour("ring")
    assert (dense.get_linestyle(), sparse.get_linestyle()) == ("-", "--")


def test_markers_show_their_filling():
    """A cross looks as full when it is hollow; no two topologies share colour and marker."""
    names = tuple(map(str, range(40)))
    styles = Styles(names, ("dense",))
    assert {styles.marker(name) for name in names} <= set("os^v<>DdphH")
    assert len({(styles.colour(name), styles.marker(name)) for name in names}) == len(names)


def ticks(axis):
    """Return the labels that an axis shows, from first to last, and where they are."""
    low, high = sorted(axis.get_view_interval())
    shown = [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    return [label.get_text() for label in shown], [label.get_window_extent() for label in shown]


@pytest.mark.parametrize(
    ("fastest", "slowest", "labels"),
    [
        (0.012, 0.150, ["20 ms", "50 ms", "100 ms"]),
        (0.020, 2.2, ["30 ms", "100 ms", "300 ms", "1 s"]),
        (0.090, 1100.0, ["100 ms", "1 s", "10 s", "100 s", "1,000 s"]),
        (2e-5, 0.1, ["100 µs", "1 ms", "10 ms", "100 ms"]),
    ],
)
def test_times_are_labelled_without_overlap(records, fastest, slowest, labels):
    """However many decades of times there are."""
    some = predicted(records)
    times = np.geomspace(fastest, slowest, len(some))
    figure = step_time_figure(
        record.model_copy(update={"step_time_s": time, "world_size": 64})
        for record, time in zip(some, times, strict=True)
    )
    figure.draw_without_rendering()
    texts, boxes = ticks(figure.axes[1].xaxis)
    assert [text for text in texts if text in labels] == labels
    assert len(texts) <= len(labels) + 1
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_a_single_configuration_and_perplexity_draw_too(records):
    record = measured(records)[0]
    assert record.quality is not None
    quality = record.quality.model_copy(update={"metric": "perplexity"})
    figure = quality_figure([record.model_copy(update={"quality": quality})])
    assert figure.axes[0].get_ylabel() == "test perplexity"
    figure.draw_without_rendering()


@pytest.mark.parametrize("name", ["ring", "butterfly", "parameter-server", "gossip", "tree"])
@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_every_shipped_schedule_can_be_drawn(name, world_size):
    schedule = load_topology(name, {}).schedule(world_size)
    for figure in (draw_schedule(schedule), draw_graph(schedule)):
        figure.savefig(io.BytesIO(), format="png", dpi=20)
    assert communication_graph(schedule).number_of_nodes() == world_size


def test_a_drawing_shows_ranks_steps_kinds_and_chunks():
    steps = [reduce(0, 1, 0, 2), copy(1, 0, 1), mix(0, 1, weight=1, denominator=3)]
    schedule = Schedule.from_steps(2, 3, steps, goal="part", servers=(1,))
    figure = draw_schedule(schedule, title="all kinds")
    shown = texts(figure)
    assert {"0-1", "1", "0", "1 (server)", "rank", "step", "all kinds"} <= set(shown)
    assert {text.split(":")[0] for text in shown} >= {"reduce", "copy", "mix"}
    arrows = [p for p in figure.axes[0].patches if isinstance(p, mpl.patches.FancyArrowPatch)]
    assert len({arrow.get_edgecolor() for arrow in arrows}) == len(arrows) == 3


def test_an_all_reduce_ends_with_full_chunks():
    figure = draw_schedule(load_topology("ring", {}).schedule(4))
    cells = [p for p in figure.axes[0].patches if isinstance(p, mpl.patches.Rectangle)]
    *_, before, after = (cells[i : i + 16] for i in range(0, len(cells), 16))
    assert len({cell.get_facecolor() for cell in after}) == 1
    assert len({cell.get_facecolor() for cell in before}) > 1


def test_a_long_schedule_is_cut_and_a_huge_one_refused():
    ring = load_topology("ring", {})
    figure = draw_schedule(ring.schedule(6), max_steps=3)
    assert figure.axes[0].get_xlabel() == "step (more follow)"
    for draw in (draw_schedule, draw_graph):
        with pytest.raises(ValueError, match="1024 ranks, expected at most 64"):
            draw(ring.schedule(1024))


def test_the_graph_weighs_who_sends_to_whom():
    graph = communication_graph(load_topology("ring", {}).schedule(4))
    assert sorted(graph.edges) == [(0, 1), (1, 2), (2, 3), (3, 0)]
    assert {graph.edges[edge]["buffers"] for edge in graph.edges} == {1.5}


def test_validations_of_one_group_and_rate_are_told_apart_by_name():
    steps = row(group="training steps")
    for rows, names in (
        ([steps, steps], ["training steps, unshaped"]),
        ({"a CNN": [steps], "a ResNet": [steps]}, ["a CNN", "a ResNet"]),
    ):
        figure = error_figure(rows)
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == names
        colours = {
            np.asarray(dots.get_facecolor()).tobytes() for dots in figure.axes[0].collections[1::2]
        }
        assert len(colours) == len(names)


NAME = "_a$b$ \x1b[31m\\$x_1.py"


def test_names_in_figures_are_as_written(tmp_path):
    """No formulas between dollar signs, and nothing that is left out or that no file may hold."""
    records = [record.model_copy(update={"topology": NAME}) for record in measurements()]
    drawing = draw_schedule(load_topology("ring").schedule(3), title=NAME)
    for figure in (drawing, quality_figure(records), speedup_figure(records)):
        save_picture(figure, tmp_path / "figure.SVG")
        named = [text for text in figure.findobj(Text) if "a$b$" in text.get_text()]
        assert named
        for text in named:
            assert "_a$b$ \\x1b[31m\\$x_1.py" in text.get_text()
            assert text.get_parse_math() is False
        ET.parse(tmp_path / "figure.SVG")
    assert legend_name("_x") == " _x"
    assert [path.name for path in tmp_path.iterdir()] == ["figure.SVG"]
