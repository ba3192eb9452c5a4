"""Workers under a launcher end when it is gone, however it went."""

import os
import subprocess
import sys

import psutil
import pytest

from dgc_topo.workers.seat import Seat
from dgc_topo.workers.watching import _warn_of_shared_store

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

ENDLESS = """
import sys, time
from dgc_topo.liveness import end_with_launcher
end_with_launcher()
print("up", flush=True)
time.sleep(600)
"""
#: What a hook or an optimizer does in a script of one's own.
OWN_LOOP = """
import torch.distributed as dist
from dgc_topo.training.own_group import OwnGroup
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
group = OwnGroup("test", "ring")
"""


def test_nothing_is_left_of_torchruns_workers_when_it_is_killed(tmp_path):
    """Of ``dgc-topo``, and of a script that only makes its optimizer or hook."""
    script = tmp_path / "endless.py"
    own = OWN_LOOP + ENDLESS.replace("end_with_launcher()", "pass")
    script.write_text(f"import os\nexec({own!r} if os.environ['RANK'] == '1' else {ENDLESS!r})")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    with subprocess.Popen(
        [*command, "--nproc-per-node", "2", str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as launcher:
        assert launcher.stdout is not None
        assert [launcher.stdout.readline() for _ in range(2)] == [b"up\n"] * 2
        workers = psutil.Process(launcher.pid).children()
        launcher.kill()
        assert psutil.wait_procs(workers, timeout=30)[1] == []
    assert len(workers) == 2


@pytest.mark.parametrize(("restarts", "told"), [("3", 1), ("0", 0)])
def test_a_script_is_told_what_restarts_of_torchrun_need(restarts, told, caplog):
    given = {"TORCHELASTIC_MAX_RESTARTS": restarts, "TORCHELASTIC_USE_AGENT_STORE": "True"}
    _warn_of_shared_store(Seat(0, 2), given)
    _warn_of_shared_store(Seat(0, 2), given | {"TORCHELASTIC_USE_AGENT_STORE": "False"})
    _warn_of_shared_store(Seat(1, 2), given)
    said = [record.message for record in caplog.records]
    assert ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in each for each in said] == [True] * told
    caplog.clear()
    _warn_of_shared_store(Seat(0, 2), given | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"})
    said = [record.message for record in caplog.records]  # the variable is there, and no help
    assert ["expected --rdzv-backend c10d" in each for each in said] == [True] * told


def test_a_worker_that_was_orphaned_before_it_could_ask_ends_at_once():
    """The launcher ended between the worker's start and its first line."""
    code = (
        "import os\n"
        "from dgc_topo.liveness import processes\n"
        "ids = iter([5, 1])\n"
        "os.getppid = lambda: next(ids)\n"
        "processes.end_with_launcher({'TORCHELASTIC_RUN_ID': 'x'})\n"
        "print('went on')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "the launcher is gone\n"
    assert done.stdout == ""


def test_a_process_of_no_launcher_outlives_who_started_it():
    """A shell may have started it in the background, to be left alone."""
    code = ENDLESS.replace("time.sleep(600)", "time.sleep(1)\nprint(2, flush=True)")
    environment = {k: v for k, v in os.environ.items() if k != "TORCHELASTIC_RUN_ID"}
    shell = f"{sys.executable} -c '{code}' & sleep 0.5"
    done = subprocess.run(
        ["bash", "-c", shell], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    assert done.stdout == "up\n2\n"
