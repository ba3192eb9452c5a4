"""`dt.launch`: functions of one's own on workers, from scripts and real notebook kernels."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import nullcontext
from functools import partial
from typing import Any

import nbformat
import psutil
import pytest
import torch
from nbclient import NotebookClient

import dgc_topo as dt
from benchmarks.survival import living_workers
from dgc_topo.workers.launching import call_on
from tests.forked import forked


def train(steps):
    """Train by the hook, and by an optimizer: a function that workers import."""
    trained = []
    for rule in ("hook", "optimizer"):
        torch.manual_seed(0)
        model = torch.nn.Linear(20, 3)
        sgd: Any = torch.optim.SGD(model.parameters(), lr=0.1)
        wrapped: Any = model
        if rule == "hook":
            wrapped = torch.nn.parallel.DistributedDataParallel(model)
            wrapped.register_comm_hook(dt.HookState(wrapped, "ring", density=0.5), dt.hook)
        else:
            sgd = dt.DistributedOptimizer(sgd, model, "butterfly", density=0.5)
        torch.manual_seed(torch.distributed.get_rank())
        for _ in range(steps):
            sgd.zero_grad()
            wrapped(torch.randn(8, 20)).square().mean().backward()
            sgd.step()
        trained.append(model.state_dict())
    return trained


def call(function, num_workers, *arguments):
    return call_on(nullcontext(forked()), function, num_workers, *arguments)


def test_workers_have_what_the_function_uses_and_results_come_by_rank(capsys):
    factors = {"of": 10}

    def work(plus):
        rank = torch.distributed.get_rank()
        print(f"rank {rank}", "of 3", end="\n" if rank else "")  # noqa: T201
        sys.stderr.write("no end")
        total = torch.tensor([float(factors["of"] * rank)])
        dt.all_reduce(total, "ring")
        factors["of"] = -1  # a copy's
        return {"total": total, rank: (plus, None)}

    found = call(work, 3, 7)
    assert [list(each) for each in found] == [["total", 0], ["total", 1], ["total", 2]]
    assert [(float(each["total"]), each[r]) for r, each in enumerate(found)] == [
        (30.0, (7, None))
    ] * 3
    assert factors == {"of": 10}
    printed = capsys.readouterr()
    assert sorted(printed.out.splitlines()) == [f"[{r}] rank {r} of 3" for r in range(3)]
    assert sorted(printed.err.splitlines()) == [f"[{r}] no end" for r in range(3)]
    assert living_workers() == []


def test_training_works_inside():
    first, second = call(train, 2, 3)
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_mistake_in_one_worker_comes_with_its_rank_and_traceback():
    def work():
        if torch.distributed.get_rank() == 1:
            raise KeyError("mine")
        dt.all_reduce(torch.ones(1), "ring")

    with pytest.raises(RuntimeError, match=r"(?s)rank 1 .*in work.*KeyError: 'mine'"):
        call(work, 2)
    with pytest.raises(RuntimeError, match=r"(?s)rank 0 .*result\[0\] is of type Thread, expected"):
        call(lambda: [threading.Thread()], 1)
    assert living_workers() == []


launch: Any = dt.launch


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (partial(launch, 3, 2), "function: 3, expected a function"),
        (partial(launch, train, 0), "num_workers: 0, expected a whole number from 1"),
        (partial(launch, train, 2.0), "num_workers: 2.0, expected"),
        (partial(launch, train, 2, device="gpu"), "device: 'gpu', expected"),
        (partial(launch, train, 2, timeout_s=0), "timeout_s: 0, expected more than 0"),
        (partial(launch, train, 2, threading.Lock()), "cannot be sent to other processes"),
    ],
)
def test_nonsense_starts_nothing(call, says):
    with pytest.raises(ValueError, match=says):
        call()


SCRIPT = """
import time
import dgc_topo as dt

def work():
    print("up")
    time.sleep(1000)

dt.launch(work, 2)
"""


def test_ctrl_c_ends_a_script_and_its_workers(tmp_path):
    (tmp_path / "random.py").write_text("raise SystemExit('not mine')\n")
    file = tmp_path / "script.py"
    file.write_text(SCRIPT.replace("import time", "import sys; del sys.path[0]; import time"))
    script = subprocess.Popen(
        [sys.executable, str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        text=True,
        start_new_session=True,
    )
    assert script.stdout is not None
    assert sorted(script.stdout.readline() for _ in range(2)) == ["[0] up\n", "[1] up\n"]
    started = psutil.Process(script.pid).children(recursive=True)
    os.killpg(script.pid, signal.SIGINT)  # as a terminal does, and a notebook
    _, errors = script.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    assert len(started) >= 2
    assert psutil.wait_procs(started, timeout=10)[1] == []


CELLS = [
    "import torch\nimport dgc_topo as dt\nfrom mine import double",
    "scale = 2.0\nclass Net(torch.nn.Linear):\n    def forward(self, x):\n"
    "        return scale * super().forward(x)\n",
    "def work(size):\n    rank = torch.distributed.get_rank()\n    torch.manual_seed(rank)\n"
    "    net = Net(size, 1)\n    dt.DistributedOptimizer("
    "torch.optim.SGD(net.parameters(), lr=0.1), net, 'ring')\n"
    "    print('rank', double(rank))\n    return net(torch.ones(size))",
    "first, *others = dt.launch(work, 3, 4)\n[torch.equal(first, other) for other in others]",
    "def fail():\n    return 1 / 0\n",
    "try:\n    dt.launch(fail, 1)\nexcept RuntimeError as error:\n    print(error)",
]


@pytest.mark.filterwarnings("default")  # of the notebook machinery, not ours
def test_functions_of_a_notebooks_cells_work(tmp_path):
    (tmp_path / "mine.py").write_text("def double(x):\n    return 2 * x\n")
    (tmp_path / "random.py").write_text("raise SystemExit('not mine')\n")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [cell.outputs for cell in notebook.cells]
    assert outputs[:3] + outputs[4:5] == [[], [], [], []]
    lines = "".join(each.text for each in outputs[3] if each.output_type == "stream").splitlines()
    assert sorted(lines) == ["[0] rank 0", "[1] rank 2", "[2] rank 4"]
    assert outputs[3][-1].data["text/plain"] == "[True, True]"
    [failed] = outputs[5]
    assert "worker of rank 0 failed" in failed.text
    assert "return 1 / 0" in failed.text  # the cell's line
    assert failed.text.rstrip().endswith("ZeroDivisionError: division by zero")
