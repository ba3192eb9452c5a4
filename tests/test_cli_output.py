"""Where output goes, and that what it names is printed as it was written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from rich.text import Text
from typer.testing import CliRunner

from dgc_topo.cli.console import PlainConsole, clear_errors, console, print_json
from dgc_topo.cli.main import app
from dgc_topo.text import markdown, one_line, printable

STAR = """
import numpy as np
from dgc_topo.schedule import Schedule, copy, reduce

def schedule(world_size):
    others = np.arange(1, world_size)
    hub = np.zeros_like(others)
    return Schedule.from_steps(world_size, 1, [reduce(others, hub), copy(hub, others)])
"""
LOUD = """
import atexit, logging, os, subprocess, sys, warnings

def speak():
    print("print")
    sys.__stdout__.write("the first stdout\\n")
    os.write(1, b"a library\\n")
    subprocess.run(["echo", "a child"], check=True)
    logging.basicConfig(stream=sys.stdout)
    logging.error("a log")
    warnings.warn("a warning", stacklevel=1)

speak()
atexit.register(speak)
""" + STAR.replace("):\n", "):\n    speak()\n", 1)
SIMULATE = ("-n", "4", "--bytes", "1MB")


def program(*arguments, **how):
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "dgc_topo", *arguments]
    given = {"capture_output": True, "text": True, "check": False} | how
    given["env"] = os.environ | {"OMP_NUM_THREADS": "1"} | how.get("env", {})
    return subprocess.run(command, **given)  # noqa: PLW1510


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_standard_output_is_for_the_answer_alone(here):
    Path("loud.py").write_text(LOUD)
    done = program("simulate", "loud.py", *SIMULATE, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["messages"] == 6
    for said in ("print", "the first stdout", "a library", "a child", "a log", "a warning"):
        assert said in done.stderr
    assert done.stderr.count("a library") >= 3  # loading, building, leaving
    Path("prints.py").write_text(f"print('loading')\n{STAR}")
    within = CliRunner().invoke(app, ["show", "prints.py", "-n", "3"])
    assert within.stdout.startswith("schedule world_size=3")
    assert within.stderr == "loading\n"


# Python starts slowly: one process per way of being broken.
@pytest.mark.parametrize(
    ("shell", "status", "said"),
    [
        ("{} verify ring -n 3 >/dev/full", 1, "error: standard output: No space left on device\n"),
        ("{} verify ring -n 3 >&-", 1, "error: standard output: Bad file descriptor\n"),
        ("{} schema scenario | head -c 1 >/dev/null; exit ${{PIPESTATUS[0]}}", 0, ""),
        ("{} verify rign -n 3 2>&- <&-", 2, ""),
    ],
)
def test_output_that_cannot_be_written(shell, status, said):
    line = shell.format(f"{sys.executable} -m dgc_topo")
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (status, said)


@pytest.mark.parametrize("columns", ["0", "1", "abc", "²", "9" * 30])
def test_sizes_that_no_terminal_has_change_nothing(columns, here):
    """The first and the last in a process: rich reads them when it is imported."""
    arguments = ("simulate", "ring", *SIMULATE, "--json")
    if columns in {"0", "²"}:
        odd = {"COLUMNS": columns, "LINES": columns, "TERMINAL_WIDTH": columns, "TERM": "dumb"}
        done = program(*arguments, env=odd)
        assert json.loads(done.stdout)["messages"] == 24, done.stderr
    result = CliRunner().invoke(app, ["networks"], env={"COLUMNS": columns})
    assert "| 1gbe" in result.stdout or "│ 1gbe" in result.stdout
    assert "0.9296" in result.stdout


def test_an_encoding_without_a_character_gets_another(here):
    Path("zürich.py").write_text(STAR, encoding="utf-8")
    done = program("verify", "zürich.py", "-n", "3", env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("z?rich.py with 3 ranks: proved")


NAMES = ["a[red]b[/].py", "[/table 5].py", ":smile:.py", "[link=x]y.py", "a b  c.py", "𝄞[0].py"]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_printed_as_written(here, name):
    path = Path(name)
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(STAR)
    run = CliRunner().invoke
    assert run(app, ["verify", name, "-n", "3"]).stdout.startswith(f"{name} with 3 ranks: proved\n")
    assert run(app, ["simulate", name, *SIMULATE]).stdout.startswith(f"{name}, 4 ranks, 1.00 MB")
    path.write_text("def schedule(world_size): raise ValueError(world_size)")
    assert run(app, ["verify", name, "-n", "3"]).stderr == f"error: {name}: 3 (line 1)\n"
    drawing = Path(name).with_suffix(".svg")
    path.write_text(STAR)
    shown = run(app, ["show", name, "-n", "3", "--plot", str(drawing)])
    assert shown.stdout == f"drawn: {drawing}\n"


CLAIMED = """
name = "small"
[[topologies]]
name = "ring"
[simulate]
networks = ["mine"]
world_sizes = [2, 4]
[[simulate.workloads]]
name = "w"
source = "me"
compressible_elements = 1000000
dense_elements = 1000
batch_size_per_worker = 8
compute_s = 0.01
[[networks]]
name = "mine"
kind = "star"
bandwidth_gbit_per_s = 1
[[claims]]
source = "Lin et al. [/table 5] <b>&amp;</b>"
workloads = ["w"]
compression = "dense"
network = "mine"
world_size = 4
baseline_world_size = 2
speedup = 2.0
note = "\\u001b[31mred\\u202e :smile: | $x_1$ and much more that no line of eighty columns holds"
"""


def test_a_scenarios_own_words_reach_terminal_and_report_as_written(here):
    Path("claims.toml").write_text(CLAIMED)
    result = CliRunner().invoke(app, ["simulate", "claims.toml", "-o", "out[v2]"])
    assert result.exit_code == 0, result.output
    claimed = next(line for line in result.stdout.splitlines() if "Claimed by" in line)
    assert "Claimed by Lin et al. [/table 5] <b>&amp;</b>: dense on mine" in claimed
    assert claimed.endswith(
        "\\x1b[31mred\\u202e :smile: | $x_1$ and much more that no line of eighty columns holds"
    )
    assert f"report:  {Path('out[v2]/report.html')}" in result.stdout.splitlines()
    page = Path("out[v2]/report.html").read_text(encoding="utf-8")
    assert "Lin et al. [/table 5] &lt;b&gt;&amp;amp;&lt;/b&gt;: dense" in page
    assert "\x1b" not in page
    assert "\u202e" not in page


def test_no_character_that_a_terminal_obeys_is_printed():
    every = "".join(map(chr, range(0x3000))) + "\ud800\U0001f600"
    assert all(ord(char) >= 32 or char in "\t\n" for char in printable(every))
    for obeyed in "\x00\x1b\x7f\x85\x9b\u200f\u2028\u202e\u2066\udc80":
        assert obeyed not in printable(every)
        assert printable(obeyed).isascii()
    assert set("\t\n") & set(printable(every))
    assert not set("\t\n") & set(one_line(every))
    kept = "\u00e9\u00a0\u200d\u3000\U0001f468\u200d\U0001f467 [b] :x: \\x1b"
    assert printable(kept) == one_line(kept) == kept


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b\nc", "a\\|b\\\\nc"),
        ("*a* _b_ c_d `e`", "\\*a\\* \\_b\\_ c_d \\`e\\`"),
        ("<img> &amp; [x](y) ~~z~~", "\\<img\\> \\&amp; \\[x\\](y) \\~\\~z\\~\\~"),
        ("butterfly (order=far), 0.1 %", "butterfly (order=far), 0.1 %"),
    ],
)
def test_markdown_shows_names_as_written(text, shown):
    assert markdown(text) == shown


def test_only_a_terminal_has_a_width(monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    wide = " ".join(["word"] * 30)
    for terminal, lines in ((False, 1), (True, 3)):
        made = PlainConsole()
        made._force_terminal = terminal
        with made.capture() as capture:
            made.print(wide)
        assert len(capture.get().splitlines()) == lines
        assert made.width == (50 if terminal else 10_000)


def test_json_has_no_infinity(capsys):
    with clear_errors():
        print_json({"a": float("inf"), "b": [float("nan"), 1.5], "c": (True, "\x1b\u202eé")})
        sys.stdout.write("foreign\n")
    said = capsys.readouterr()
    assert json.loads(said.out) == {"a": None, "b": [None, 1.5], "c": [True, "\x1b\u202eé"]}
    assert said.out.isascii()
    assert said.err == "foreign\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError("2 TB"), "this takes more memory than there is (MemoryError: 2 TB)"),
        (OverflowError("too large"), "a number is too large (OverflowError: too large)"),
        (RecursionError("too deep"), "too deep"),
        (ValueError("x\x1b[2J[red]y"), "x\\x1b[2J[red]y"),
    ],
)
def test_what_a_user_can_cause_is_one_line(capsys, monkeypatch, error, said):
    for traceback in ("", "1"):
        monkeypatch.setenv("DGC_TOPO_TRACEBACK", traceback)
        with pytest.raises(typer.Exit) as ended, clear_errors():
            raise error
        assert ended.value.exit_code == 2
        shown = capsys.readouterr().err
        assert shown.endswith(f"error: {said}\n")
        assert ("Traceback" in shown) == bool(traceback)


def test_styles_are_those_that_are_asked_for():
    with console.capture() as capture:
        console.print(Text("[x]", "bold"), "[y]")
    assert capture.get() == "[x] [y]\n"
