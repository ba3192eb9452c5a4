"""Reports in a real browser: they sort, fit a phone, have a dark side and print."""

from pathlib import Path

import pytest

from dgc_topo.experiments.validation.records import load_rows
from dgc_topo.records.folder import ResultsFolder
from dgc_topo.report.report import write_report
from dgc_topo.report.validation import write_validation_report
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


def brightness(colour):
    return sum(int(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3]) / 3


def test_dark_looks_are_dark(page, tmp_path):
    for dark in (False, True):
        for text, ground in evaluate(tmp_path, page, COLOURS, dark=dark):
            if ground != "rgba(0, 0, 0, 0)":
                assert (brightness(text) > brightness(ground)) == dark


def prints(page, tmp_path, least, most):
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    printed = tmp_path / "page.pdf"
    run_browser(tmp_path, f"--print-to-pdf={printed}", (tmp_path / "page.html").as_uri())
    content = printed.read_bytes()
    assert content.startswith(b"%PDF")
    assert least <= content.count(b"/Type /Page\n") <= most


def test_it_prints(page, tmp_path):
    prints(page, tmp_path, 3, 12)


STEPS = Path(__file__).parents[2] / "benchmarks/results/2026-11-29-validate-steps"
AGREEMENT = f"""
const table = document.querySelector('table.agreement');
const head = [...table.querySelectorAll('th')].find((each) => each.textContent === 'error');
const errors = () => [...table.tBodies[0].rows].map(
    (row) => row.cells[head.dataset.column].textContent);
head.click(); const sorted = errors();
const outside = [...table.querySelectorAll('tr.outside')].map((row) => row.lastElementChild);
const looks = getComputedStyle(outside[0]);
const image = document.querySelector('figure img');
return {{sorted, marks: outside.map((cell) => cell.textContent), weight: looks.fontWeight,
    colour: looks.color, drawn: image.complete && image.naturalWidth,
    sizes: (() => {{ {SIZES} }})()}};
"""


@pytest.fixture(scope="module")
def validation(tmp_path_factory):
    """The committed rows, two of them moved out of their intervals."""
    folder = tmp_path_factory.mktemp("validation")
    rows = load_rows(STEPS)
    moved = {0: 1.5, 1: 0.5}
    rows = [
        each.model_copy(update={"measured_s": moved.get(i, 1.0) * each.predicted_s})
        for i, each in enumerate(rows)
    ]
    lines = [each.model_dump_json() for each in rows]
    (folder / "validation.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return write_validation_report(folder).read_text(encoding="utf-8")


def test_predicted_against_measured_sorts_on_a_dark_phone_and_marks_what_lies_outside(
    validation, tmp_path
):
    found = evaluate(tmp_path, validation, AGREEMENT, width=500, dark=True)
    errors = [float(text.removesuffix(" %")) for text in found["sorted"]]
    assert errors == sorted(errors)
    assert (errors[0], errors[-1]) == (-33.3, 100.0)
    assert sorted(found["marks"]) == ["\u25b2 above", "\u25bc below"]  # a word and a sign
    assert int(found["weight"]) >= 600
    assert brightness(found["colour"]) > 150  # readable on a dark ground
    assert found["drawn"]
    assert found["sizes"]["page"] <= found["sizes"]["window"] <= 500
    assert found["sizes"]["wide"] == []
    prints(validation, tmp_path, 1, 4)
