"""Commands that can go on say how, whatever ends them, and say what they go on with."""

import pytest
from typer.testing import CliRunner

from dgc_topo.cli.main import app
from dgc_topo.liveness import Loss, Position
from dgc_topo.python_files import AskedToEnd
from dgc_topo.workers import LaunchError
from tests.training.tiny import write_tiny


def lost() -> LaunchError:
    error = LaunchError("worker of rank 1 was killed")
    error.loss = Loss(1, Position(3, "computing"), "gone", "was killed by SIGKILL")
    return error


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("ended", [KeyboardInterrupt(), AskedToEnd(143), lost()], ids=repr)
@pytest.mark.parametrize(
    ("command", "how"),
    [
        (["compare"], "the same command goes on"),
        (["train", "--topology", "ring"], "the same command with --resume goes on from the new"),
        (["train", "--topology", "ring", "--resume"], "the same command goes on from the newest"),
    ],
)
def test_whatever_ends_a_training_the_command_says_how_to_go_on(
    tmp_path, monkeypatch, ended, command, how, begun
):
    monkeypatch.setattr("dgc_topo.cli.going_on.is_begun", lambda *_: begun)

    def end(*_, **__):
        raise ended

    monkeypatch.setattr("dgc_topo.experiments.runner.run_scenario", end)
    done = CliRunner().invoke(app, [*command, str(write_tiny(tmp_path, "ring"))])
    assert done.exit_code in {2, 130, 143}
    anew = "the same command begins anew: there is no checkpoint and no record yet"
    assert f"; {how if begun else anew}" in done.output


def test_an_error_of_its_own_would_come_again(tmp_path, monkeypatch):
    def end(*_, **__):
        raise LaunchError("diverged")

    monkeypatch.setattr("dgc_topo.experiments.runner.run_scenario", end)
    done = CliRunner().invoke(app, ["compare", str(write_tiny(tmp_path, "ring"))])
    assert done.output == "error: diverged\n"


def test_resume_says_what_it_goes_on_with_and_what_it_refuses(tmp_path):
    path = write_tiny(tmp_path, "ring", densities=[0.01], world_size=2, steps=3)
    virtual = path.read_text().replace("timeout_s", 'workers = "virtual"\ntimeout_s')
    path.write_text(virtual)
    command = ["train", str(path), "--topology", "ring", "--resume", "-o", str(tmp_path / "out")]
    said = CliRunner().invoke(app, command).output
    assert f"{tmp_path / 'out'}: nothing to go on with, so it begins at step 0" in said
    assert (
        "left out: 1 of 1 runs, which are there already" in CliRunner().invoke(app, command).output
    )
    path.write_text(virtual.replace("epochs = 2", "epochs = 4"))
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2
    assert "(ring, density 0.01, seed 3, 2 ranks, 6 steps, finished)" in refused.output
    assert "what is finished is not made longer" in refused.output
