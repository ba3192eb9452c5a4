"""A schedule moves in a notebook and in a page, and ends with what its proof says."""

import pytest
from typer.testing import CliRunner

import dgc_topo as dt
from dgc_topo.cli.main import app
from tests.report.browser import evaluate, needs_browser

PLAY = """
const slider = document.getElementById('step'), fills = () =>
    [...document.querySelectorAll('rect.cell')].map((cell) => cell.style.fill);
const go = (step) => {
  slider.value = step;
  slider.dispatchEvent(new Event('input'));
  return fills();
};
const first = go(0), dots = document.querySelectorAll('svg g g').length, last = go(slider.max);
return {first, last, dots, said: document.getElementById('said').textContent,
        button: document.getElementById('play').textContent, steps: slider.max};
"""


def test_it_is_a_page_that_loads_nothing(tmp_path):
    made = dt.animate(dt.load_topology("ring").schedule(4), title="a <ring>")
    made.save(tmp_path / "ring.html")
    page = (tmp_path / "ring.html").read_text(encoding="utf-8")
    assert "a &lt;ring&gt;" in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    assert made._repr_html_().startswith("<iframe srcdoc=")


@needs_browser
@pytest.mark.parametrize("topology", ["ring", "parameter-server:server=dedicated", "gossip"])
def test_the_browser_plays_it(topology, tmp_path):
    schedule = dt.load_topology(topology).schedule(4)
    found = evaluate(tmp_path, dt.animate(schedule).html, PLAY)
    steps = list(schedule.steps())
    assert int(found["steps"]) == len(steps)
    assert found["dots"] == len(steps[0])
    assert found["button"] == "play"
    assert found["said"].startswith(f"After {len(steps)} steps")
    assert found["first"] != found["last"]
    if schedule.goal == "all-reduce":  # at the end all hold all contributions
        assert len(set(found["last"])) == 1


def test_large_schedules_are_refused_or_cut(tmp_path):
    with pytest.raises(ValueError, match="at most 64"):
        dt.animate(dt.load_topology("ring").schedule(65))
    assert "Only the first 64 steps" in dt.animate(dt.load_topology("ring").schedule(40)).html


def test_the_command_writes_it(tmp_path):
    to = tmp_path / "tree.html"
    done = CliRunner().invoke(app, ["show", "tree", "-n", "4", "--plot", str(to)])
    assert done.exit_code == 0, done.output
    assert to.read_text(encoding="utf-8").startswith("<!doctype html>")
    wrong = CliRunner().invoke(app, ["show", "tree", "-n", "4", "--plot", f"{to}x"])
    assert wrong.exit_code == 2
    assert "did you mean" in wrong.stderr
    both = CliRunner().invoke(app, ["show", "tree", "-n", "4", "--plot", str(to), "--grid"])
    assert "one of them at most" in both.stderr
