"""Help texts, of every command."""

import re
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from dgc_topo.calibration import app as calibration
from dgc_topo.cli.main import app as program


def walk(command, *names):
    """Yield every command with the words that call it."""
    yield names, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from walk(inner, *names, name)


COMMANDS = {
    " ".join((called, *names)): (app, names, command)
    for called, app in (("dgc-topo", program), ("dgc_topo.calibration", calibration))
    for names, command in walk(typer.main.get_command(app))
}


def words(text):
    """Return *text* on one line, without frames and the dots of lists."""
    return " ".join(re.sub("[│╭╮╰╯─•]|^ *- ", " ", text, flags=re.MULTILINE).split())


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
        ("dgc-topo compare", "An interrupted [ladder] continues"),
        ("dgc-topo validate", "has a section [validate]"),
        ("dgc-topo sweep", "has a section [sweep]. An interrupted sweep continues"),
        ("dgc-topo bench training", "has a section [throughput]"),
    ],
)
def test_sections_of_scenarios_are_named(help_of, name, section):
    assert section in help_of(name)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name.startswith("dgc-topo")])
def test_a_short_option_asks_for_help_everywhere(help_of, wide, name):
    app, names, _ = COMMANDS[name]
    assert words(CliRunner().invoke(app, [*names, "-h"]).output) == help_of(name)


def test_help_needs_no_large_library():
    code = (
        "import sys; from dgc_topo.cli import main\n"
        "sys.argv = ['dgc-topo', '--help']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "large = {'torch', 'matplotlib', 'pandas', 'scipy', 'networkx', 'pydantic'}\n"
        "print(sorted(large & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "topologies" in done.stdout
    assert done.stderr == "[]\n"
