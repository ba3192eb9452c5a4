"""The README is short, and what it prints is what the commands print."""

import os
import re
from difflib import SequenceMatcher
from pathlib import Path

import pytest
from typer.testing import CliRunner

import dgc_topo as dt
from dgc_topo.cli.main import app
from tools.docs.picture import write

ROOT = Path(__file__).parents[1]
FILE = ROOT / "README.md"
OUTPUT = re.compile(r"(?<=<!-- output -->\n```\n).*?(?=```)", re.DOTALL)
PAYS = re.compile(r"(?<=<!-- pays -->\n\n).*?(?=\n\n)", re.DOTALL)


def text():
    return FILE.read_text(encoding="utf-8")


def checked(pattern, made):
    """Compare a part of the README with what it has to be; UPDATE_GOLDEN=1 writes it."""
    if os.environ.get("UPDATE_GOLDEN"):
        FILE.write_text(pattern.sub(lambda _: made, text(), count=1), encoding="utf-8")
    assert pattern.search(text())[0] == made


def test_it_is_at_most_120_lines_and_every_line_ends():
    lines = text().splitlines()
    assert len(lines) <= 120
    assert (
        max(len(line) for line in lines if "|" not in line and line[:1] not in "0123456789") <= 400
    )


def test_advise_prints_what_the_readme_shows(wide):
    [command] = re.findall(r"^dgc-topo (advise .*)$", text(), re.MULTILINE)
    result = CliRunner().invoke(app, command.split())
    lines = result.output.split("Predicted;")[0].splitlines()
    rows = [line.strip("│┃").replace("┃", "│").strip() for line in lines if line[0] in "│┃"]
    sentences = [line for line in lines if line[0].isalnum()]
    checked(OUTPUT, "\n".join([*sentences, "", *rows]) + "\n")
    page = (ROOT / "docs" / "advise.md").read_text(encoding="utf-8")
    quoted = [line.removeprefix("> ") for line in page.splitlines() if line.startswith("> ")]
    assert " ".join(quoted) == " ".join(sentences)


def test_the_table_of_what_pays_is_what_advise_predicts():
    rows = [
        "| network | dense 16 bit | DGC 1 % | verdict |",
        "| --- | --- | --- | --- |",
    ]
    for network in ("1gbe", "10gbe", "ib-edr"):
        advice = dt.advise("resnet50", 8, network=network)
        dense, sparse = (
            next(w for w in advice.leading if w.label.startswith(start))
            for start in ("dense bfloat16 over", "DGC 1 % over")
        )
        gain = sparse.speedup / dense.speedup
        word = "compress" if gain > 1.1 else "don't"
        rows.append(f"| {network} | {shown(dense)} | {shown(sparse)} | {word} |")
    checked(PAYS, "\n".join(rows))


def shown(way):
    return f"{way.speedup:.2f}x ({way.speedup_low:.2f} to {way.speedup_high:.2f})"


def test_the_picture_is_what_its_command_draws(tmp_path):
    made, committed = tmp_path / "speedup.svg", ROOT / "docs" / "speedup.svg"
    write(made)
    if os.environ.get("UPDATE_GOLDEN"):
        committed.write_bytes(made.read_bytes())
    before, now = (path.read_text(encoding="utf-8") for path in (committed, made))
    assert before == now
    assert len(now) < 60_000


def test_the_three_lines_are_those_of_the_example():
    [diff] = re.findall(r"```diff\n(.*?)```", text(), re.DOTALL)
    added = [line[1:].strip() for line in diff.splitlines() if line.startswith("+")]
    example = (ROOT / "examples" / "ddp" / "with_dgc.py").read_text(encoding="utf-8")
    assert len(added) == 3
    for line in added:
        best = max(
            SequenceMatcher(None, line, other.strip()).ratio() for other in example.splitlines()
        )
        assert best > 0.9, line


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)]+)", text()))))
def test_every_link_leads_to_a_file_and_to_a_heading_in_it(link):
    path, _, anchor = link.partition("#")
    assert (ROOT / path).exists()
    if anchor:
        titles = re.findall(r"^#+ (.*)$", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in titles}


def test_it_counts_the_averaging_rules():
    assert len(dt.known_averagings()) == 10
    assert "[ten averaging rules]" in text()
