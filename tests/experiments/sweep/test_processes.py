"""Sweeps in worker processes: the same rows as in one process, and nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import dgc_topo as dt
from dgc_topo.experiments.scenario.sweep import SweepSection
from dgc_topo.experiments.sweep.grid import SweepGrid
from dgc_topo.experiments.sweep.networks import base_network
from dgc_topo.experiments.sweep.processes import _Shares
from dgc_topo.workers import LaunchError

AXES: dict[str, Any] = {
    "topology": ["ring", "tree", "gossip:graph=ring"],
    "world_size": [2, 4, 8],
    "network": ["1gbe", "ib-edr"],
    "workload": "resnet110-cifar",
    "density": [1, 0.01],
    "bandwidth": dt.spread("100Mbit/s", "10Gbit/s", 20),
    "slow_host_bandwidth_factor": [1, 0.5],
}
SKIPPED = 240  # of gossip, which are there before the first prediction
SCRIPT = f"""
import sys
import dgc_topo as dt
spread = dt.spread
dt.sweep(**{AXES!r}, output=sys.argv[1], processes=int(sys.argv[2]))
"""


def start(folder: Path) -> subprocess.Popen[str]:
    """Start a sweep in two processes, as a script without a guard around its main program."""
    script = folder.with_name("script.py")
    script.write_text(SCRIPT)
    # A group of its own, because Ctrl-C goes to all processes of one.
    return subprocess.Popen(
        [sys.executable, str(script), str(folder), "2"],
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )


def wait_for_records(folder: Path, process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Wait until some records are there; return the processes of the sweep."""
    file, until = folder / "sweep.jsonl", time.monotonic() + 120
    while not (file.exists() and file.read_bytes().count(b"\n") > SKIPPED + 50):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    return psutil.Process(process.pid).children(recursive=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "sweep"
    dt.sweep(**AXES, output=folder, processes=0)
    return (folder / "sweep.jsonl").read_bytes()


def test_two_processes_write_the_same_file_as_none(undisturbed, tmp_path):
    dt.sweep(**AXES, output=tmp_path, processes=2)
    assert (tmp_path / "sweep.jsonl").read_bytes() == undisturbed


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_an_ended_sweep_leaves_no_process_and_goes_on(undisturbed, tmp_path, end):
    folder = tmp_path / "sweep"
    with start(folder) as process:
        workers = wait_for_records(folder, process)
        assert len(workers) == 2
        if end == signal.SIGINT:
            os.killpg(process.pid, end)
        else:
            process.kill()
        said = process.communicate(timeout=60)[1]
    gone, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
    assert len(gone) == 2
    assert ("KeyboardInterrupt" in said) == (end == signal.SIGINT)
    left = (folder / "sweep.jsonl").read_bytes()
    assert SKIPPED < left.count(b"\n") < undisturbed.count(b"\n")
    dt.sweep(**AXES, output=folder, processes=0)
    assert (folder / "sweep.jsonl").read_bytes() == undisturbed


def test_workers_load_no_torch(tmp_path):
    folder = tmp_path / "sweep"
    with start(folder) as process:
        try:
            for worker in wait_for_records(folder, process):
                assert not [each for each in worker.memory_maps() if "libtorch" in each.path]
        finally:
            process.kill()


def test_what_only_this_process_has_is_predicted_in_it():
    """A function of the program itself, and a network with routes made in Python."""
    cluster = dt.load_cluster("1gbe", 4)
    here = dt.sweep("ring", 4, cluster, "resnet50", processes=2).to_frame()
    expected = dt.simulate_step("resnet50", "ring", cluster)
    assert here.step_time_s.tolist() == [expected.step_time_s]


def test_a_worker_that_fails_says_why(tmp_path):
    file = tmp_path / "broken.py"
    file.write_text(
        "import os\n"
        "from dgc_topo import Schedule, load_topology\n"
        "def schedule(world_size: int) -> Schedule:\n"
        "    if 'RANK' in os.environ:\n"
        "        os._exit(3)\n"
        "    return load_topology('ring').schedule(world_size)\n"
    )
    with pytest.raises(LaunchError, match="failed with exit status 3"):
        dt.sweep(str(file), 4, "1gbe", "resnet50", processes=1)


@pytest.mark.parametrize("workers", [1, 2, 3, 40])
def test_every_point_is_given_once_and_a_worker_keeps_to_its_schedules(workers):
    axes = SweepSection.model_validate(
        {
            "topology": ["ring", "tree"],
            "world_size": [2, 4, 8],
            "network": "1gbe",
            "workload": "resnet50",
            "bandwidth": dt.spread(1e6, 1e9, 100),
        }
    )
    grid = SweepGrid(axes, (base_network("1gbe"),))
    shares = _Shares(grid, range(len(grid.points)), workers)
    given: list[int] = []
    first: dict[int, set[tuple[str, int]]] = {}
    while lots := [(w, lot) for w in range(workers) for lot in shares.next_of(w, 1)]:
        for worker, lot in lots:
            given += lot
            points = [grid.points[number] for number in lot]
            schedules = {(str(point.topology), point.world_size) for point in points}
            assert len(schedules) == 1
            first.setdefault(worker, schedules)
    assert sorted(given) == list(range(len(grid.points)))
    if workers <= 3:
        assert len(set(map(frozenset, first.values()))) == workers
