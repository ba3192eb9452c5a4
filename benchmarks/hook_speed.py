"""Time of a step with our hook or optimizer, beside DDP alone and its fp16 and PowerSGD hooks.

Run ``python -m benchmarks.hook_speed`` for 1, 2 and 4 workers on loopback; ``--lab`` for 4 hosts
of 100 Mbit/s.  All ways take turns in one run; a row is the median over rounds of the slowest
rank's step in milliseconds, as a multiple of DDP's, and in samples per second of all workers; the
last column is the processor time of all ranks as a multiple of DDP's, which other work beside it
disturbs less.
``--model cnn`` is the network of the quickstart, on images of 28 x 28.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

import dgc_topo as dt
from dgc_topo.training.models.architectures import Cnn

#: Square layers of a model, by its name; 1024 x 1024 has a million parameters.
SQUARE = {"66k": (128, 4), "1M": (512, 4), "10M": (1024, 10)}
MODELS = (*SQUARE, "cnn")
IMAGE = (1, 28, 28)
BATCH = 16  #: samples per worker and step

POWERSGD = "DDP, PowerSGD"
WARM_UP = 4  #: rounds in which buckets are rebuilt, and programs compiled

Register = Callable[[DistributedDataParallel], None]

#: Settings of our hook, by the name of the row.
HOOKS: dict[str, dict[str, Any]] = {
    "hook, dense, ring": {"topology": "ring", "density": 1.0},
    "hook, dense, ring of 4 segments": {"topology": "ring:segments=4", "density": 1.0},
    "hook, dense, butterfly": {"topology": "butterfly", "density": 1.0},
    "hook, 1 %, butterfly": {"topology": "butterfly", "density": 0.01},
    "hook, 1 %, tree": {"topology": "tree", "density": 0.01},
    "hook, 0.1 %, butterfly": {"topology": "butterfly", "density": 0.001},
}

#: Those of our optimizer, likewise; gossip exchanges parameters, all of them.
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "optimizer, dense, ring": {"topology": "ring"},
    "optimizer, dense, gossip": {"topology": "gossip"},
}


def net(name: str) -> nn.Module:
    """Return the model, with the same parameters on every rank."""
    torch.manual_seed(0)
    if name == "cnn":
        return Cnn(IMAGE, 10, 16, 64)
    width, depth = SQUARE[name]
    layers = [nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(depth)]
    return nn.Sequential(*layers)


def steps_of(name: str, chosen: list[str]) -> dict[str, Callable[[], None]]:
    """Return a function for one training step of each way."""
    shape = IMAGE if name == "cnn" else (SQUARE[name][0],)

    def step_of(
        way: str, register: Callable[[DistributedDataParallel], None]
    ) -> Callable[[], None]:
        # The all-reduces of PowerSGD's buckets overtake each other on Gloo, so it gets one bucket.
        model = DistributedDataParallel(net(name), bucket_cap_mb=1000 if way == POWERSGD else None)
        register(model)
        return stepping(model, torch.optim.SGD(model.parameters(), lr=1e-3))

    def distributed(settings: dict[str, Any]) -> Callable[[], None]:
        model = net(name)
        own = torch.optim.SGD(model.parameters(), lr=1e-3)
        return stepping(model, dt.DistributedOptimizer(own, model, **settings))

    def stepping(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        inputs = torch.randn(BATCH, *shape)

        def step() -> None:
            optimizer.zero_grad()
            model(inputs).square().mean().backward()
            optimizer.step()

        return step

    def ours(settings: dict[str, Any]) -> Register:
        return lambda model: model.register_comm_hook(dt.HookState(model, **settings), dt.hook)

    def powersgd(model: DistributedDataParallel) -> None:
        state = powerSGD_hook.PowerSGDState(
            None, matrix_approximation_rank=1, start_powerSGD_iter=2
        )
        model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)

    fp16 = default_hooks.fp16_compress_hook
    ways: dict[str, Register] = {
        "DDP": lambda model: None,
        "DDP, fp16": lambda model: model.register_comm_hook(dist.group.WORLD, fp16),
        POWERSGD: powersgd,
        **{way: ours(settings) for way, settings in HOOKS.items()},
    }
    makers = {way: partial(step_of, way, register) for way, register in ways.items()}
    makers |= {way: partial(distributed, settings) for way, settings in OPTIMIZERS.items()}
    return {
        way: make()
        for way, make in makers.items()
        if way == "DDP" or not chosen or any(part in way for part in chosen)
    }


def measure(asked: argparse.Namespace) -> None:
    """Measure all ways on the ranks of this group, and print a table on rank 0."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    steps = steps_of(asked.model, asked.only)
    times: dict[str, list[float]] = {way: [] for way in steps}
    work: dict[str, list[float]] = {way: [] for way in steps}
    for number in range(asked.rounds + WARM_UP):
        for way, step in steps.items():
            dist.barrier()
            began_s, began_cpu_s = time.perf_counter(), time.process_time()
            for _ in range(asked.repeats):
                step()
            taken_s = torch.tensor([(time.perf_counter() - began_s) / asked.repeats])
            worked_s = torch.tensor([time.process_time() - began_cpu_s])
            dist.all_reduce(taken_s, dist.ReduceOp.MAX)
            dist.all_reduce(worked_s)
            if number >= WARM_UP:
                times[way].append(float(taken_s))
                work[way].append(float(worked_s))
    if dist.get_rank() == 0:
        print_table(asked, times, work)
    sys.stdout.flush()
    os._exit(0)  # torch may abort when DDP models outlive the group


def print_table(
    asked: argparse.Namespace, times: dict[str, list[float]], work: dict[str, list[float]]
) -> None:
    """Print medians, and ratios round by round, which a changing load disturbs less."""
    where = asked.where or "loopback"
    print(f"\n{asked.model} parameters, {dist.get_world_size()} workers, {where}")
    for way, taken_s in times.items():
        ratios = [ours / base for ours, base in zip(taken_s, times["DDP"], strict=True)]
        shares = [ours / base for ours, base in zip(work[way], work["DDP"], strict=True)]
        step_s = median(taken_s)
        rate = BATCH * dist.get_world_size() / step_s
        columns = f"{1e3 * step_s:8.1f} ms | {median(ratios):5.2f} | {rate:8.0f} /s"
        print(f"| {way:34} | {columns} | {median(shares):5.2f} |")


def launch(asked: argparse.Namespace, world_size: int) -> None:
    """Run this file again, on so many workers."""
    own = [sys.executable, "-m", "benchmarks.hook_speed", "--measure", "--model", asked.model]
    own += ["--rounds", str(asked.rounds), "--repeats", str(asked.repeats)]
    own += [each for part in asked.only for each in ("--only", part)]
    if asked.lab:
        rate = ["--hosts", str(world_size), "--rate", asked.rate]
        own += ["--where", f"lab of {asked.rate}"]
        command = [sys.executable, "-m", "dgc_topo", "lab", "run", *rate, "--", *own]
    else:
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world_size}"]
        command = [sys.executable, *torchrun, *own[1:]]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="10M")
    parser.add_argument("--workers", type=int, nargs="*", default=None)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--repeats", type=int, default=3, help="steps of a way in a round")
    parser.add_argument("--only", action="append", default=[], help="ways that contain this text")
    parser.add_argument("--lab", action="store_true", help="emulated hosts instead of loopback")
    parser.add_argument("--rate", default="100Mbit/s", help="of a host's link, with --lab")
    parser.add_argument("--where", default="", help=argparse.SUPPRESS)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        measure(asked)
    for world_size in asked.workers or ([4] if asked.lab else [1, 2, 4]):
        launch(asked, world_size)


if __name__ == "__main__":
    main()
