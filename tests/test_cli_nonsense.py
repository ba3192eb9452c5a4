"""Every option of every command, given nonsense: one clear message, and never a traceback."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from dgc_topo.calibration import app as calibration
from dgc_topo.cli.main import app as program

#: How each command is called so that it fails, or is done, within milliseconds.
CALLS = {
    "advise": ["vgg16", "--hosts", "2"],
    "compare": ["none.toml"],
    "train": ["none.toml", "--topology", "ring"],
    "validate": ["none.toml"],
    "simulate": ["ring", "-n", "4", "--bytes", "1MB"],
    "step": ["vgg16", "-n", "2"],
    "sweep": ["none.toml"],
    "verify": ["ring", "-n", "3"],
    "show": ["ring", "-n", "3"],
    "topologies": [],
    "networks": [],
    "sizes": ["vgg16"],
    "schema": [],
    "report": ["folder"],
    "results diff": ["before", "after"],
    "results list": [],
    "data": ["fashion-mnist", "--destination", "file"],
    "calibrate": ["--output", "file", "--rate", "none"],
    "bench collectives": ["--bytes", "none"],
    "bench training": ["none.toml"],
    "lab run": ["--hosts", "0", "true"],
    "lab doctor": None,  # has nothing to be given, and looks at the machine
    "scenarios": [],
    "env": [],
    "calibrating a cluster": ["none/file.toml"],
}
NONSENSE = ["", "nan", "-1", "9" * 30, "[/red]\x1b[31m\udcff", "folder"]
#: Would be no nonsense: the data are fetched, the lab is looked at.
LEFT_OUT = {("data", "destination"), ("lab run", "command")}


def commands(command, *names):
    inner = getattr(command, "commands", None)
    if inner is None:
        yield " ".join(names), command
    for name, part in (inner or {}).items():
        yield from commands(part, *names, name)


COMMANDS = {
    **{name: (program, name.split(), c) for name, c in commands(typer.main.get_command(program))},
    "calibrating a cluster": (calibration, [], typer.main.get_command(calibration)),
}


@pytest.fixture(autouse=True)
def _somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("file").touch()
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


def with_nonsense(call, parameter, value):
    if parameter.param_type_name == "argument":
        return [value, *call[1:]]
    option = max(parameter.opts, key=len)
    return [f"{option}={value}", *call] if call[-1:] == ["true"] else [*call, f"{option}={value}"]


def test_every_command_is_called():
    assert set(COMMANDS) == set(CALLS)


@pytest.mark.parametrize("name", [name for name, call in CALLS.items() if call is not None])
def test_nonsense_is_refused_in_one_message(name):
    app, names, command = COMMANDS[name]
    for parameter in command.params:
        if (name, parameter.name) in LEFT_OUT or getattr(parameter, "is_flag", False):
            continue
        for value in NONSENSE:
            arguments = [*names, *with_nonsense(CALLS[name], parameter, value)]
            result = CliRunner().invoke(app, arguments)
            assert result.exception is None or isinstance(result.exception, SystemExit), arguments
            assert result.exit_code in {0, 2}, arguments
            assert bool(result.exit_code) == bool(result.stderr), arguments
            if result.stderr.startswith("error:"):
                assert "\x1b" not in result.stderr, arguments
                assert len(result.stderr.splitlines()) == 1, arguments
