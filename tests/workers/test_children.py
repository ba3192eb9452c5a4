"""Interpreters that the package starts import nothing from where the user stands."""

import json
import subprocess
import sys

import psutil
import pytest

from dgc_topo.workers.children import python_command, python_environment
from dgc_topo.workers.lab import examine

#: Names of Python's own and of others' that some child imports.
TRAPS = ("random", "queue", "json", "runpy", "numpy", "torch", "pyroute2", "pydantic", "dgc_topo")


@pytest.fixture
def trapped(tmp_path, monkeypatch):
    """Stand in a folder where whatever is imported ends the process."""
    for name in TRAPS:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name}.py was imported')\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(code: str) -> str:
    """Run code as a program whose path is in order, and return what it prints."""
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


SESSION = """
import sys
sys.path += ["", {more!r}]
from dgc_topo.workers import Loopback, run_on
print(run_on(Loopback(), "jobs_of_mine:found", world_size=1))
"""
JOBS = """
import random, queue
def found(worker, argument):
    import numpy, torch, pydantic, dgc_topo
    return [hasattr(random, "Random"), hasattr(torch, "Tensor")]
"""


@pytest.mark.parametrize("python_path", [None, ":/nowhere"])
def test_workers_find_the_users_modules_but_not_in_place_of_others(trapped, python_path):
    """An empty entry of PYTHONPATH is the current folder, and easily made by mistake."""
    (trapped / "jobs_of_mine.py").write_text(JOBS)
    code = SESSION.format(more=str(trapped))
    if python_path is not None:  # set now: the program itself must not fall for it
        code = f"import os; os.environ['PYTHONPATH'] = {python_path!r}\n{code}"
    assert run(code) == "[[True, True]]"


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_neither_a_labs_keeper_nor_the_doctor_looks_there(trapped):
    """The daemon may be root."""
    found = examine()
    assert "was imported" not in str(found)
    if not found.usable:
        pytest.skip(found.missing)
    assert (
        run("from dgc_topo.workers.lab import *\nwith Lab(LabSpec(num_hosts=1)): print('up')")
        == "up"
    )


POOL = """
if __name__ == "__main__":
    from multiprocessing import get_context
    from concurrent.futures import ProcessPoolExecutor
    from dgc_topo.workers.children import end_with_parent, safe_path
    import os, time
    with safe_path(), ProcessPoolExecutor(
        1, mp_context=get_context("spawn"), initializer=end_with_parent
    ) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep({wait_s})
    print("PYTHONSAFEPATH" in os.environ)
"""


def test_what_multiprocessing_spawns_does_not_look_there_either(trapped):
    assert run(POOL.format(wait_s=0)).splitlines()[-1] == "False"


def test_what_multiprocessing_spawns_ends_with_a_parent_that_is_killed():
    command = [sys.executable, "-P", "-c", POOL.format(wait_s=600)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        child = psutil.Process(int(owner.stdout.readline()))
        owner.kill()
    assert psutil.wait_procs([child], timeout=60)[1] == []


def test_a_child_is_of_this_very_package_and_has_its_arguments():
    command = python_command("json.tool", "--compact")
    done = subprocess.run(
        command, env=python_environment(), input=b'{"a": 1}', capture_output=True, check=True
    )
    assert json.loads(done.stdout) == {"a": 1}
