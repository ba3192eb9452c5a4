"""Modules of the last release can be imported by their old names, with one warning each."""

import subprocess
import sys

import pytest

LAST_README = """
from dgc_topo.compression import DGC, DGCConfig
from dgc_topo.execute import Communicator, DistributedTransport
from dgc_topo.simulate import DenseSizes, load_fabric, simulate
from dgc_topo.topology import load_topology
from dgc_topo.verify import verify

ring = load_topology("ring")
print(verify(ring, 64).claim)
schedule, network = ring.schedule(64), load_fabric("1gbe").star(64)
print(simulate(schedule, network, DenseSizes(100e6, schedule.num_chunks)).time_s)
"""


def run(code, *options):
    command = [sys.executable, *options, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_what_the_last_readme_showed_still_runs_and_says_the_new_names():
    done = run(LAST_README)
    assert done.returncode == 0, done.stderr
    claim, seconds = done.stdout.splitlines()
    assert claim.startswith("all-reduce: every rank ends with each of 64")
    assert float(seconds) == pytest.approx(2 * 63 / 64 * 100e6 / 116.2e6, rel=0.02)
    for old, new in (("execute", "runtime"), ("simulate", "simulation"), ("verify", "proof")):
        assert done.stderr.count(f"dgc_topo.{old} is dgc_topo.{new}") == 1


def test_modules_inside_moved_with_their_folder():
    done = run("from dgc_topo.execute.failure import Watch; print(Watch.__module__)")
    assert done.stdout.strip() == "dgc_topo.runtime.failure"


def test_names_that_never_were_are_no_modules():
    for name in ("dgc_topo.execute.nothing", "dgc_topo.nothing"):
        done = run(f"import {name}")
        assert f"ModuleNotFoundError: No module named '{name}'" in done.stderr
    done = run("from dgc_topo.lab import nothing")
    assert "ImportError: cannot import name 'nothing'" in done.stderr


def test_the_package_itself_uses_no_old_name():
    code = "import dgc_topo, importlib\nfor n in dgc_topo.__all__: getattr(dgc_topo, n)"
    done = run(code, "-W", "error::FutureWarning")
    assert done.returncode == 0, done.stderr
