"""Long commands say how far they are also where no terminal shows a bar."""

import io

from rich.console import Console
from typer.testing import CliRunner

from dgc_topo.cli import progress
from dgc_topo.cli.main import app
from tests.training.tiny import write_tiny


def test_a_piped_training_says_its_steps_and_predictions(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.0)
    scenario = write_tiny(tmp_path, "ring", densities=[1.0], epochs=1, steps=3)
    text = scenario.read_text(encoding="utf-8").replace("[train]", '[train]\nworkers = "virtual"')
    scenario.write_text(text, encoding="utf-8")
    done = CliRunner().invoke(app, ["compare", str(scenario), "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "step 1 of 3, loss " in done.output
    assert "predictions: 1 of 4 so far" in done.output


def test_lines_come_now_and_then(monkeypatch):
    now_s = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now_s[0])
    out = io.StringIO()
    with progress.counting(Console(file=out), "probes", 960) as advance:
        for _ in range(960):  # 2 minutes
            now_s[0] += 0.125
            advance(1)
    lines = out.getvalue().splitlines()
    assert lines[0] == "probes: 80 of 960 so far"
    assert len(lines) == 12


def test_a_terminal_has_its_bar_and_no_lines():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80)
    with progress.counting(console, "probes", 2) as advance:
        advance(2)
    assert "so far" not in out.getvalue()
    assert "2/2" in out.getvalue()
