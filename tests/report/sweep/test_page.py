"""The page of a sweep, and its findings in words."""

import pandas as pd
import pytest

from dgc_topo.report.sweep.findings import findings
from dgc_topo.report.sweep.page import sweep_page
from tests.report.pages import Page
from tests.report.sweep.frames import BANDWIDTHS, row, swept

SKIPPED = [row(topology="mesh", world_size=n, skipped="<b>too many</b>") for n in (512, 1024)]


@pytest.fixture(scope="module")
def page():
    frame = pd.concat([swept(world_size=(4, 64)), pd.DataFrame(SKIPPED)])
    return Page(sweep_page(frame, "which <i>topology</i>"))


def test_the_page_loads_nothing_and_escapes_what_users_wrote(page):
    assert len(page.loads) >= 7
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.loads)
    assert not {"link", "iframe", "object", "embed", "i"} & set(page.tags)
    assert page.tags.count("script") == 1  # the page's own, which sorts tables
    assert "which <i>topology</i>" in page.text
    assert "<b>too many</b>" in page.text


def test_the_page_shows_findings_pictures_and_tables_with_units(page):
    for expected in (
        "234 predicted", "2 skipped", "In short", "What was swept",
        "100 Mbit/s to 100 Gbit/s (13 values)", "Step time over bandwidth",
        "Fastest topology and density", "The best way", "Where compression stops to pay",
        "> 100 Gbit/s", "What was skipped", "1 Gbit/s (about 1gbe)",
    ):  # fmt: skip
        assert expected in page.text, expected
    assert page.tags.count("table") == 4
    assert "<section>" not in page.text  # HTML that is shown as text


def test_pages_of_little_say_so():
    one = Page(sweep_page(pd.DataFrame([row()]), "one")).text
    assert "one case, resnet50, 8 ranks, ring, dense takes 1.50 s; nothing to compare" in one
    none = Page(sweep_page(pd.DataFrame([row()]).iloc[:0], "none")).text
    assert "Nothing is predicted: the sweep holds no cases." in none
    skipped = Page(sweep_page(pd.DataFrame(SKIPPED), "skipped")).text
    assert "Nothing is predicted: every case was skipped." in skipped
    assert "Skipped 2 of 2 cases: <b>too many</b> (2)." in skipped


def test_findings_answer_the_questions():
    lines = findings(swept())
    assert lines[0] == (
        "Predicted for resnet50, 64 ranks at 100 Mbit/s: fastest is butterfly, 0.1 % (speed-up "
        "42.2x); the best dense way is butterfly, dense (speed-up 0.40x), so compression gains "
        "104x."
    )
    text = "\n".join(lines)
    assert "at 1 Gbit/s (about 1gbe)" in text
    assert "compression does not pay there" in text
    assert "on 4 ranks it pays up to about 57 Gbit/s (between 56.2 and 100 Gbit/s)" in text
    assert "parameter-server takes 31.8 times as long as butterfly" in text
    assert "Predicted compressing costs 20.0 ms per step." in text


def test_findings_say_what_is_out_of_range():
    low = findings(swept(bandwidth_bytes_per_s=BANDWIDTHS[:5]))
    assert any("it still pays at 1 Gbit/s, the end of the sweep" in line for line in low)
    high = swept(bandwidth_bytes_per_s=(1e12, 1e13))
    assert any("pays at no swept bandwidth" in line for line in findings(high))


def test_findings_say_what_is_held_and_not_ranked():
    frame = swept(latency_s=(1e-6, 25e-6), world_size=(8,))
    assert any("with 1 µs latency" in line for line in findings(frame))
    gossip = pd.concat([swept(), swept().assign(topology="gossip:graph=ring")])
    gossip = gossip.drop_duplicates(["topology", "world_size", "bandwidth_bytes_per_s", "density"])
    lines = findings(gossip)
    assert any("steps of gossip:graph=ring do less than an all-reduce" in line for line in lines)
    assert not any("fastest is gossip" in line for line in lines)


def test_ties_are_said_as_ties():
    rows = [row(topology=name, step_time_s=time) for name, time in (("ring", 1), ("tree", 1.005))]
    assert any("tree, dense within 1 % of it" in line for line in findings(pd.DataFrame(rows)))
    names = ("ring", "tree", "mesh", "butterfly")
    rows = [row(topology=name, step_time_s=1.0) for name in names]
    lines = findings(pd.DataFrame(rows))
    assert any("all 4 ways are within 1 % of the fastest" in line for line in lines)
    assert any("all topologies are within 1 % of each other" in line for line in lines)


def test_dense_within_a_hundredth_of_the_fastest_is_no_contradiction():
    rows = [row(density=density, step_time_s=time) for density, time in ((1.0, 1.005), (0.01, 1))]
    (line, *_) = findings(pd.DataFrame(rows))
    assert "fastest is ring, 1 %" in line
    assert line.endswith("; ring, dense within 1 % of it, so compression does not pay there.")


def test_of_many_models_less_is_said_of_each():
    few, many = (
        len(findings(pd.concat([swept(workload=(name,)) for name in names])))
        for names in ("abc", "abcd")
    )
    assert many < few
