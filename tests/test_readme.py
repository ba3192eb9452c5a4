"""What the README shows as Python works as it is printed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dgc_topo.cli.main import app

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
STAR, TRAIN = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_topology_of_your_own_is_proved(tmp_path):
    star = tmp_path / "star.py"
    star.write_text(STAR)
    result = CliRunner().invoke(app, ["verify", str(star), "--world-size", "8"])
    assert result.exit_code == 0, result.output
    assert "proved" in result.output


@pytest.mark.slow
def test_the_training_loop_of_your_own_runs(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(TRAIN + "print(float(sum(p.sum() for p in parameters.values())).hex())\n")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, "--nproc-per-node", "2", str(script)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    claims = re.findall(r"all-reduce: every rank ends with each of 64", done.stdout)
    predicted = {float(text) for text in re.findall(r"(\S+) s for 100 MB", done.stdout)}
    ended = re.findall(r"-?0x1\.\S+", done.stdout)
    assert len(claims) == 2
    assert list(predicted) == pytest.approx([2 * 63 / 64 * 100e6 / 116.2e6], rel=0.02)
    assert len(ended) == 2
    assert len(set(ended)) == 1  # the same parameters on both ranks, bit for bit
