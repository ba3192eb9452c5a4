"""The report in a real browser: it sorts, fits a phone, has a dark side and prints."""

import pytest

from dgc_topo.records.folder import ResultsFolder
from dgc_topo.report.report import write_report
from tests.report.browser import evaluate, needs_browser, run_browser

pytestmark = needs_browser

COLUMN = """
const table = document.querySelector('table.comparison');
const heads = [...table.querySelectorAll('th[data-column]')];
const head = heads.find((each) => each.textContent.includes('step time'));
const read = () => [...table.tBodies[0].rows].map(
    (row) => [row.cells[0].textContent.trim(), row.cells[head.dataset.column].textContent.trim()]);
"""
SORTED = f"""{COLUMN}
const before = read();
head.click(); const up = read(); const said = head.getAttribute('aria-sort');
const shown = getComputedStyle(table.tBodies[0].rows[1].cells[0]).visibility;
head.dispatchEvent(new KeyboardEvent('keydown', {{key: 'Enter'}})); const down = read();
head.click(); const again = read();
return {{before, up, down, again, said, shown}};
"""
SIZES = """
const wide = [...document.querySelectorAll('body *')].filter(
    (e) => !e.closest('.scroll, .picture, pre')
        && e.getBoundingClientRect().right > innerWidth + 1);
return {page: document.documentElement.scrollWidth, window: innerWidth,
        wide: wide.map((e) => e.outerHTML.slice(0, 80))};
"""
COLOURS = "return [document.body, document.querySelector('section')].map("
COLOURS += "(e) => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor]);"


@pytest.fixture(scope="module")
def page(records, tmp_path_factory):
    folder = ResultsFolder.create(tmp_path_factory.mktemp("report") / "run", 'name = "a"\n', "a")
    for record in records:
        folder.append(record)
    return write_report(folder).read_text(encoding="utf-8")


def seconds(text):
    number, unit = text.removeprefix("\u2605").split()[:2]
    return float(number.replace(",", "")) * {"s": 1, "ms": 1e-3, "\u00b5s": 1e-6}[unit]


def test_a_click_sorts_by_what_a_column_measures(page, tmp_path):
    found = evaluate(tmp_path, page, SORTED)
    times = [seconds(time) for _, time in found["up"]]
    assert times == sorted(times)
    assert found["before"] != found["up"]
    assert [seconds(time) for _, time in found["down"]] == times[::-1]
    assert found["again"] == found["before"]
    assert found["said"] == "ascending"
    assert found["shown"] == "visible"  # a row that has moved says its name
    assert sorted(found["up"]) == sorted(found["before"])


def test_it_fits_a_phone(page, tmp_path):
    found = evaluate(tmp_path, page, SIZES, width=500)
    assert found["window"] <= 500
    assert found["page"] <= found["window"]
    assert found["wide"] == []


def test_dark_looks_are_dark(page, tmp_path):
    def brightness(colour):
        return sum(int(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3]) / 3

    for dark in (False, True):
        for text, ground in evaluate(tmp_path, page, COLOURS, dark=dark):
            if ground != "rgba(0, 0, 0, 0)":
                assert (brightness(text) > brightness(ground)) == dark


def test_it_prints(page, tmp_path):
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    printed = tmp_path / "page.pdf"
    run_browser(tmp_path, f"--print-to-pdf={printed}", (tmp_path / "page.html").as_uri())
    content = printed.read_bytes()
    assert content.startswith(b"%PDF")
    assert 3 <= content.count(b"/Type /Page\n") <= 12
