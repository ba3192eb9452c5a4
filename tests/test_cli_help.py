"""Help texts, of every command."""

import re

import pytest
import typer
from typer.testing import CliRunner

from dgc_topo.cli.main import app as program
from dgc_topo.cli.under_launcher import app as under_launcher


def walk(command, *names):
    """Yield every command with the words that call it."""
    yield names, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from walk(inner, *names, name)


COMMANDS = {
    " ".join((called, *names)): (app, names, command)
    for called, app in (("dgc-topo", program), ("dgc_topo.training", under_launcher))
    for names, command in walk(typer.main.get_command(app))
}


def words(text):
    """Return *text* on one line, without frames."""
    return " ".join(re.sub("[│╭╮╰╯─]", " ", text).split())


@pytest.fixture
def help_of(wide):
    def invoke(name):
        app, names, _ = COMMANDS[name]
        result = CliRunner().invoke(app, [*names, "--help"])
        assert result.exit_code == 0
        return words(result.output)

    return invoke


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_all_that_is_written(help_of, name):
    """What is in brackets, too, which rich would read as its own markup."""
    shown, (_, _, command) = help_of(name), COMMANDS[name]
    for text in (command.help, *(option.help for option in command.params)):
        assert words(text or "") in shown


@pytest.mark.parametrize(
    ("name", "section"),
    [
        ("dgc-topo compare", "A [ladder] goes on"),
        ("dgc-topo validate", "scenario with [validate]"),
        ("dgc-topo bench training", "scenario with [throughput]"),
    ],
)
def test_sections_of_scenarios_are_named(help_of, name, section):
    assert section in help_of(name)
