import base64
import re

import pytest

from dgc_topo.records.configuration import predicted
from dgc_topo.records.folder import ResultsFolder
from dgc_topo.records.records import ResultsError
from dgc_topo.report.report import write_report
from tests.report.pages import Page

SCENARIO = 'name = "a & b"\n# <script>alert(1)</script> https://example.org\n'


def make(path, records, scenario=SCENARIO):
    folder = ResultsFolder.create(path, scenario, "quick <b>start</b>")
    for record in records:
        folder.append(record)
    return write_report(folder)


@pytest.fixture(scope="module")
def html(records, tmp_path_factory):
    return make(tmp_path_factory.mktemp("report"), records).read_text(encoding="utf-8")


def test_the_page_loads_nothing(html):
    page = Page(html)
    assert page.loads
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.loads)
    assert not {"link", "iframe", "object", "embed", "b"} & set(page.tags)
    assert page.tags.count("script") == 1  # the page's own, which sorts tables and loads nothing
    assert not re.search(r"fetch|XMLHttpRequest|import|https?:", html.rpartition("<script>")[2])
    styles = html[html.index("<style>") : html.index("</style>")]
    assert not re.search(r"url\(|@import", styles)
    for source in page.loads:
        image = base64.b64decode(source.partition(",")[2])
        assert b"<image" not in image
        assert not re.search(rb'href="(?!#)', image)


def test_what_users_wrote_is_escaped(html):
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert SCENARIO in "".join(Page(html).words)
    assert "quick &lt;b&gt;start" in html


def test_it_shows_everything(html):
    text = Page(html).text
    for expected in (
        "18 measured",
        "180 predicted",
        "In short",
        "predicted 1gbe",
        "wire bytes per step",
        "46.4x (73%)",
        "Where the time of a step goes",
        "communicate",
        "invented numbers for tests, measured nowhere",
        "dgc-topo compare scenario.toml",
        "measurements.jsonl",
    ):
        assert expected in text
    assert html.count("<figure>") == 5
    assert all(alt for alt in re.findall(r'alt="([^"]*)"', html))


def test_the_same_records_give_the_same_plots(records, tmp_path, html):
    again = make(tmp_path / "again", records).read_text(encoding="utf-8")
    assert Page(again).loads == Page(html).loads


def test_simulation_only_and_empty_folders_have_a_report(records, tmp_path):
    simulated = make(tmp_path / "simulated", predicted(records)).read_text(encoding="utf-8")
    assert simulated.count("<figure>") == 2
    assert "Where the time" not in simulated
    empty = make(tmp_path / "empty", []).read_text(encoding="utf-8")
    assert "holds no records yet" in empty


def test_it_is_written_again_over_itself(records, tmp_path):
    first = make(tmp_path / "run", records[:2])
    size = first.stat().st_size
    assert write_report(str(tmp_path / "run")) == first
    assert first.stat().st_size == size
    with pytest.raises(ResultsError, match="no measurements"):
        write_report(tmp_path)
