"""Pictures of a sweep: what is drawn, from which rows, and when there is nothing to draw."""

import io

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from dgc_topo.report.sweep.maps import gain_text, place_among
from dgc_topo.report.sweep.picture import MOST_PANELS, figure_of
from dgc_topo.report.sweep.pictures import NAMES, draw, pictures_of
from tests.report.sweep.frames import BANDWIDTHS, row, step_time_s, swept

TWO = BANDWIDTHS[4:9:4]  # 1 and 10 Gbit/s


@pytest.fixture(scope="module")
def frame():
    return swept()


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def lines_of(axes):
    return {line.get_label(): line for line in axes.lines if "," in str(line.get_label())}


def test_pictures_are_there_if_their_axes_vary(frame):
    names = [picture.name for picture in pictures_of(frame)]
    assert names == [
        "time", "speedup", "fastest", "fastest-by-density", "compression-gain", "break-even",
        "scaling",
    ]  # fmt: skip
    one = frame[(frame["world_size"] == 16) & (frame["density"] == 1)]
    assert [picture.name for picture in pictures_of(one)] == ["time", "speedup"]
    dense = frame[(frame["density"] == 1)]
    assert [p.name for p in pictures_of(dense)] == ["time", "speedup", "fastest", "scaling"]
    at_one = frame[frame["bandwidth_bytes_per_s"] == BANDWIDTHS[4]]
    assert [picture.name for picture in pictures_of(at_one)] == ["scaling"]


@pytest.mark.parametrize(
    ("name", "axis", "values"),
    [
        ("over-latency", "latency_s", (1e-6, 5e-5, 1e-3)),
        ("over-slow-host", "slow_host_factor", (1.0, 0.5, 0.25)),
        ("over-slow-rank", "slow_rank_factor", (1.0, 2.0)),
        ("over-hosts-per-rack", "hosts_per_rack", (4, 8, 16)),
        ("over-oversubscription", "oversubscription", (1.0, 4.0)),
        ("over-passes", "accumulation_steps", (1, 4)),
        ("over-local-steps", "every", (1, 10, 100)),
    ],
)
def test_every_other_axis_has_its_picture(name, axis, values):
    varied = swept(**{axis: values, "bandwidth_bytes_per_s": TWO, "world_size": (8,)})
    assert name in [picture.name for picture in pictures_of(varied)]
    figure = draw(varied, name)
    figure.savefig(io.BytesIO(), format="png", dpi=20)
    (first, second) = figure.axes
    assert [axes.get_title(loc="left") for axes in (first, second)] == ["1 Gbit/s", "10 Gbit/s"]
    line = lines_of(first)["ring, dense"]
    assert list(line.get_xdata()) == sorted(values)


def test_lines_are_the_frames_numbers_in_bits(frame):
    first = draw(frame, "time").axes[0]
    assert first.get_title(loc="left") == "4 ranks"
    lines = lines_of(first)
    assert len(lines) == 9
    line = lines["butterfly, 1 %"]
    assert list(line.get_xdata()) == [8 * each for each in BANDWIDTHS]
    times = [step_time_s("butterfly", 4, 0.01, each) for each in BANDWIDTHS]
    assert list(line.get_ydata()) == pytest.approx(times)
    assert line.get_color() == lines["butterfly, dense"].get_color()
    assert line.get_linestyle() == lines["ring, 1 %"].get_linestyle() != "-"
    assert {"1gbe", "10gbe", "25gbe", "ib-edr", "100gbe"} <= set(texts(draw(frame, "time")))
    assert "nvlink" not in texts(draw(frame, "time"))


def test_a_speed_up_has_its_ideal_line(frame):
    axes = draw(frame[frame["world_size"] == 16], "speedup").axes[0]
    (ideal,) = [line for line in axes.lines if "," not in str(line.get_label())]
    assert list(np.unique(ideal.get_ydata())) == [16.0]


def test_skipped_rows_are_never_drawn(frame):
    skipped = [row(topology="tree", step_time_s=9e9, skipped="no")]
    both = pd.concat([frame, pd.DataFrame(skipped)])
    for name in ("time", "fastest", "scaling"):
        assert "tree" not in "".join(texts(draw(both, name)))


def test_the_map_names_winners_ties_and_gains():
    times = {
        (4, TWO[0], "ring"): 1.0, (4, TWO[0], "tree"): 1.3,
        (4, TWO[1], "ring"): 1.0, (4, TWO[1], "tree"): 1.005,
        (16, TWO[0], "ring"): 5.0, (16, TWO[0], "tree"): 2.0,
        (16, TWO[1], "ring"): 1.0,
    }  # fmt: skip
    cases = pd.DataFrame(
        [
            row(world_size=size, bandwidth_bytes_per_s=bandwidth, topology=name, step_time_s=time)
            for (size, bandwidth, name), time in times.items()
        ]
    )
    figure = draw(cases, "fastest")
    shown = {text.get_text(): text.get_position() for text in figure.axes[0].texts}
    cells = {"A\n+30 %": (0, 0), "A=B": (1, 0), "B\n2.50x": (0, 1), "A": (1, 1)}  # A ran alone
    assert cells.items() <= shown.items()
    assert {"A  ring, dense", "B  tree, dense"} <= set(texts(figure))
    filled = [p for p in figure.axes[0].patches if isinstance(p, Rectangle) and p.get_fill()]
    assert len(filled) == 5  # a cell of a tie has two stripes


def test_many_ties_are_counted():
    names = ("ring", "butterfly", "tree", "mesh", "parameter-server")
    cases = pd.DataFrame(
        [
            row(world_size=size, bandwidth_bytes_per_s=bandwidth, topology=name, step_time_s=1.0)
            for size in (4, 8)
            for bandwidth in TWO
            for name in names
        ]
    )
    figure = draw(cases, "fastest")
    assert "=5" in texts(figure)
    assert "=n  n ways within 1 %" in texts(figure)


def test_gains_are_percentages_and_then_factors():
    assert list(map(gain_text, (1.02, 1.5, 2.0, 31.8))) == ["+2 %", "+50 %", "2.00x", "32x"]


def test_fabrics_lie_between_the_columns_of_a_map():
    assert place_among([1.0, 10.0, 100.0], 10.0) == 1.0
    assert place_among([1.0, 10.0, 100.0], 10**0.5) == pytest.approx(0.5)
    assert place_among([1.0, 10.0], 11.0) == 2.0  # outside


def test_the_break_even_is_drawn_where_it_is(frame):
    axes = draw(frame, "break-even").axes[0]
    line = lines_of(axes)["ring, 0.1 %"]
    assert np.asarray(line.get_xdata()).tolist() == [4.0, 16.0, 64.0]
    assert all(40e9 < bits < 80e9 for bits in np.asarray(line.get_ydata()))
    edges = [np.asarray(each.get_ydata()).tolist() for each in axes.lines]
    assert [1.025] * 3 in edges  # the server's, above the axes: beyond the swept range


def test_a_break_even_out_of_range_is_said():
    always = swept(density=(1.0, 0.001), bandwidth_bytes_per_s=BANDWIDTHS[:5])
    figure = draw(always, "break-even")
    assert any("its break-even lies beyond" in text for text in texts(figure))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_draw_says_so(name, frame):
    one = pd.DataFrame([row()])
    skipped = pd.DataFrame([row(skipped="too large", step_time_s=None)] * 3)
    for cases, said in (
        (one, "does not vary"),
        (one.iloc[:0], "no predictions"),
        (skipped, "no predictions: all 3 were skipped"),
    ):
        assert any(said in text for text in texts(draw(cases, name)))


def test_an_unknown_picture_lists_the_known_ones(frame):
    with pytest.raises(ValueError, match="plot 'map': unknown, expected one of time, speedup"):
        draw(frame, "map")


def test_panels_are_few_and_have_their_own_figures(frame):
    many = pd.concat(
        [
            swept(workload=(name,), world_size=(2, 4, 8, 16, 32), bandwidth_bytes_per_s=TWO)
            for name in ("a", "b", "c", "d", "e", "f")
        ]
    )
    for picture in pictures_of(many):
        assert len(picture.panels) <= MOST_PANELS
        if not picture.panels:  # it says so instead
            assert picture.name == "break-even"
            continue
        alone = figure_of(picture, picture.panels[:1], titled=False)
        assert len(alone.axes) == 1
        assert alone.get_suptitle() == ""


def test_collectives_have_pictures_of_times_and_bandwidths():
    cases = swept(world_size=(4, 16), topology=("ring", "butterfly"), num_bytes=(1e3, 1e6))
    cases = cases.rename(columns={"step_time_s": "time_s"}).assign(workload=None)
    cases = cases.drop(columns=["samples_per_s", "speedup", "scaling_efficiency", "compress_s"])
    cases["busbw_bytes_per_s"] = 1e8
    names = [picture.name for picture in pictures_of(cases)]
    assert {"time", "speedup", "fastest", "scaling", "over-bytes"} <= set(names)
    assert draw(cases, "time").axes[0].get_ylabel() == "time"
    assert draw(cases, "speedup").axes[0].get_ylabel() == "bus bandwidth"


def test_named_networks_stand_side_by_side():
    fabrics = (("1gbe", 116e6, 25e-6), ("10gbe", 1.2e9, 25e-6), ("ib-edr", 10e9, 1e-6))
    cases = pd.DataFrame(
        [
            row(network=name, bandwidth_bytes_per_s=bandwidth, latency_s=latency, world_size=size)
            for name, bandwidth, latency in fabrics
            for size in (4, 8)
        ]
    )
    axes = draw(cases, "time").axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1gbe", "10gbe", "ib-edr"]


def test_drawing_leaves_matplotlib_as_it_was(frame):
    before = dict(mpl.rcParams)
    for picture in pictures_of(frame):
        figure_of(picture).savefig(io.BytesIO(), format="png", dpi=20)
    assert dict(mpl.rcParams) == before


def test_names_are_as_written():
    name = "_a$b$.py"
    cases = pd.concat([swept(topology=("ring",)), swept(topology=("ring",)).assign(topology=name)])
    for picture in pictures_of(cases):
        figure = figure_of(picture)
        figure.savefig(io.BytesIO(), format="png", dpi=20)
        for text in figure.findobj(Text):
            if "$" in text.get_text():
                assert text.get_parse_math() is False


def test_other_choices_are_held_in_lines_and_named_in_maps():
    """Four dashes cannot tell eight ways of sending apart."""
    cases = pd.concat(
        [
            swept(
                overlap=(overlap,), bucket_bytes=(bucket,), wire_dtype=("float32", "float16"),
                bandwidth_bytes_per_s=TWO, density=(1.0, 0.01),
            )
            for overlap, bucket in ((True, 25 * 2**20), (False, None))
        ]
    )  # fmt: skip
    cases = cases.drop(columns="samples_per_s")
    cases.loc[~cases["overlap"], "step_time_s"] *= 2
    cases.loc[cases["wire_dtype"] == "float16", "step_time_s"] *= 0.9
    figure = draw(cases, "time")
    assert figure.get_suptitle() == "Step time over bandwidth (overlapping, float32)"
    assert len(lines_of(figure.axes[0])) == 6
    assert {line.get_linestyle() for line in lines_of(figure.axes[0]).values()} == {"-", "--"}
    letters = [text for text in texts(draw(cases, "fastest")) if "butterfly, " in text]
    assert letters
    assert all(text.endswith("%, overlapping, float16") for text in letters)
    assert not any("buckets" in text for text in texts(draw(cases, "fastest")))


def test_what_panels_have_no_room_for_is_said():
    cases = pd.concat(
        [
            swept(workload=(name,), world_size=(2, 4, 8), bandwidth_bytes_per_s=TWO)
            for name in ("a", "b", "c")
        ]
    )
    (time, *_) = pictures_of(cases)
    assert time.text.endswith(" Drawn are 2 of 3 models and 2 of 3 world sizes.")
    assert [panel.title for panel in time.panels] == [
        "a, 4 ranks", "a, 8 ranks", "c, 4 ranks", "c, 8 ranks"
    ]  # fmt: skip
