"""The README's Python and TOML work as they are printed, and its commands exist."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from dgc_topo.cli.main import app
from dgc_topo.experiments.shipped import shipped_scenarios

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LOOK, STAR, TRAIN = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
(NETWORK,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)


def test_the_first_look_prints_predictions_without_torch():
    code = "import sys; sys.modules['torch'] = None\n" + LOOK
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    proof, *simulations = done.stdout.splitlines()
    assert proof.startswith("Proof(ring with 64 ranks")
    assert [line.partition("(")[0] for line in simulations] == [
        *["Simulation"] * 2,
        *["StepSimulation"] * 2,
    ]


def test_the_topology_of_your_own_is_proved(tmp_path):
    star = tmp_path / "star.py"
    star.write_text(STAR)
    result = CliRunner().invoke(app, ["verify", str(star), "--world-size", "8"])
    assert result.exit_code == 0, result.output
    assert "proved" in result.output


def test_the_network_of_your_own_is_the_shipped_one(tmp_path):
    shipped = (ROOT / "networks" / "gpus-in-two-racks.toml").read_text(encoding="utf-8")
    assert tomllib.loads(NETWORK).items() <= tomllib.loads(shipped).items()
    file = tmp_path / "mine.toml"
    file.write_text(NETWORK)
    arguments = ["simulate", "ring", "-n", "8", "--bytes", "100MB", "--network", str(file)]
    result = CliRunner().invoke(app, arguments)
    assert "1.40 s" in result.output
    assert "core -> rack 1" in result.output


@pytest.mark.slow
def test_the_training_loop_of_your_own_runs(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(TRAIN + "print(float(sum(p.sum() for p in model.parameters())).hex())\n")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, "--nproc-per-node", "2", str(script)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    ended = re.findall(r"-?0x1\.\S+", done.stdout)
    assert len(ended) == 2
    assert len(set(ended)) == 1  # the same parameters on both ranks, bit for bit


def commands() -> list[list[str]]:
    """Return the words of every ``dgc-topo`` command that the README shows, without comments."""
    shown = re.findall(r"^(?:`|.*`)?(dgc-topo [^`#\n]+)", README, re.MULTILINE)
    launched = re.findall(r"-m (dgc_topo [a-z]+ [^`#\n]+)`", README)
    return [shlex.split(text)[1:] for text in shown + launched]


def test_every_command_and_option_shown_exists():
    root = get_command(app)
    assert len(commands()) > 15
    for words in commands():
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
            assert is_there, f"{words}: no {needed.name}"


def test_every_scenario_shown_by_name_is_shipped():
    names = {each.name for each in shipped_scenarios()}
    verbs = {"compare", "train", "validate"}
    shown = [w[1] for w in commands() if w[0] in verbs and len(w) > 1 and not w[1].isupper()]
    assert len(shown) > 4
    assert set(shown) <= names
