"""Every command of the documentation exists, with its options and scenarios."""

import re
import shlex

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from dgc_topo.cli.main import app
from dgc_topo.experiments.shipped import shipped_scenarios
from tests.docs.pages import PAGES, ROOT

PAGE_NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]


def commands(page: str) -> list[tuple[list[str], bool]]:
    """Return the words of every command of the program on a page, and True for a line to paste."""
    text = (ROOT / page).read_text(encoding="utf-8")
    fences = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
    lines = [line for found in fences.findall(text) for line in found.splitlines()]
    inline = re.findall(r"`([^`]+)`", fences.sub("", text))
    starts = ("dgc-topo ", ".venv/bin/dgc-topo ", "torchrun ", "srun ")
    found = []
    for line, is_whole in [(each, True) for each in lines] + [(each, False) for each in inline]:
        call = re.split(r"^\S*dgc-topo\s|\s-m\sdgc_topo\s", line, maxsplit=1)
        if line.startswith(starts) and len(call) > 1:
            found.append((shlex.split(call[1], comments=True), is_whole))
    return found


@pytest.mark.parametrize("page", PAGE_NAMES)
def test_every_command_and_option_shown_exists(page):
    root = get_command(app)
    for words, is_whole in commands(page):
        command, rest = root, list(words)
        while rest and hasattr(command, "commands") and not rest[0].startswith("-"):
            assert rest[0] in command.commands, f"no command {rest[0]!r} in {words}"
            command = command.commands[rest.pop(0)]
        known = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
        asked = [word for word in rest if word.startswith("-") and word != "--"]
        own = rest[: rest.index("--")] if "--" in rest else rest
        assert {word for word in own if word.startswith("-")} <= known | {"--help"}, words
        assert asked or not own or command.params, words
        for needed in (each for each in command.params if each.required):
            is_there = own if needed.param_type_name == "argument" else {*needed.opts} & {*asked}
            assert is_there or not is_whole, f"{words}: no {needed.name}"


def test_commands_are_found():
    assert sum(len(commands(page)) for page in PAGE_NAMES) > 60
    assert len(commands("docs/guides/commands.md")) > 25


def test_every_scenario_shown_by_name_is_shipped():
    names = {each.name for each in shipped_scenarios()}
    verbs = {"compare", "train", "validate"}
    shown = [
        words[1]
        for page in PAGE_NAMES
        for words, _ in commands(page)
        if words and words[0] in verbs and len(words) > 1
    ]
    named = {each for each in shown if "." not in each and not each.isupper() and each[0] != "-"}
    assert len(named) > 4
    assert named <= names


@pytest.mark.parametrize(
    "words",
    [
        ["verify", "butterfly", "--world-size", "7", "--option", "order=far"],
        ["show", "ring", "--world-size", "4", "--plot", "ring.svg"],
        ["sizes", "resnet50", "--density", "0.01", "--wire-dtype", "int8"],
        ["simulate", "ring", "-n", "1024", "--bytes", "100MiB", "--network", "1gbe"],
        ["step", "resnet50", "-n", "64", "--network", "10gbe", "--overlap"],
        ["schema", "network"],
    ],
    ids=lambda words: words[0],
)
def test_quick_commands_run(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in PAGE_NAMES)
    assert " ".join(["dgc-topo", *words]) in text
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
