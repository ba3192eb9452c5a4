"""Files and folders that cannot be written are refused before the work begins."""

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dgc_topo.cli.main import app
from dgc_topo.cli.outputs import check_file, check_folder
from tests.training.tiny import write_tiny

# Topologies and models that nobody knows: that would be said if the work had begun.
FILES = {
    "show nothing -n 4 --plot": "--plot",
    "step nothing -n 4 --plot": "--plot",
    "step nothing -n 4 --trace": "--trace",
    "simulate nothing -n 4 --bytes 1MB --goal": "--goal",
    "calibrate --rate nothing --output": "--output",
}


def refusal_of(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 2, result.output
    return result.output


@pytest.mark.parametrize("command", FILES)
def test_the_option_of_a_file_is_named(tmp_path, command):
    path = tmp_path / "none" / "x.svg"
    said = f"error: {FILES[command]} {path}: no such folder, expected {path.parent} to be one\n"
    assert refusal_of(*command.split(), path) == said
    assert f"{FILES[command]} {tmp_path}: is a folder" in refusal_of(*command.split(), tmp_path)


@pytest.mark.parametrize("command", ["compare", "simulate", "train --topology ring"])
def test_the_option_of_a_folder_is_named(tmp_path, command):
    scenario = write_tiny(tmp_path, "tree", world_size=2, epochs=1)
    name, *options = command.split()
    path = scenario / "results"
    said = f"error: --output {path}: {scenario} is a file, expected a folder\n"
    assert refusal_of(name, scenario, *options, "-o", path) == said


def test_the_folder_of_data_is_named(tmp_path):
    file = tmp_path / "file"
    file.touch()
    said = refusal_of("data", "fashion-mnist", "--destination", file)
    assert said == f"error: --destination {file}: {file} is a file, expected a folder\n"


def test_what_can_be_written_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (None, Path("new.svg"), tmp_path / "new.svg"):
        check_file("--plot", path)
    for path in (None, Path("results/new"), tmp_path / "results" / "new", tmp_path):
        check_folder("--output", path)
    assert list(tmp_path.iterdir()) == []


def test_missing_rights_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # as root all is allowed
    with pytest.raises(ValueError, match=r"--plot .*svg: cannot be written, expected the right"):
        check_file("--plot", tmp_path / "x.svg")
    with pytest.raises(ValueError, match=f"--output .*new: {tmp_path} cannot be written to"):
        check_folder("--output", tmp_path / "new")
