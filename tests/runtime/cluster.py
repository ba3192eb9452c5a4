"""Real worker processes that run one function after another.

Starting a process and importing torch costs seconds; the processes here are forked from a server
that has imported everything once, and serve many tests.
"""

import multiprocessing as mp
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch.distributed as dist

Job = Callable[..., Any]
GLOO_TIMEOUT = timedelta(seconds=60)
#: What processes of all tests need: the first test that starts some decides for the whole run.
PRELOADED = [
    "tests.runtime.jobs",
    "tests.training.hooks.jobs",
    "tests.training.test_lost_in_every_phase",
]


class Lost:
    """Stands for the result of a worker that died."""


class Cluster:
    """*size* processes with one group for each of *world_sizes*.

    Groups hold the *last* ranks of the world, so that a rank in a group is not a global rank.
    """

    def __init__(
        self,
        size: int,
        world_sizes: Sequence[int],
        backend: str = "gloo",
    ) -> None:
        context = mp.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self.size = size
        self._store = tempfile.TemporaryDirectory()
        self._pipes: list[Connection] = []
        self.processes: list[Any] = []
        for rank in range(size):
            ours, theirs = context.Pipe()
            store = f"{self._store.name}/store"
            arguments = (rank, size, world_sizes, backend, store, theirs)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()  # so that a dead worker reads as end of file
            self._pipes.append(ours)
            self.processes.append(process)

    def run(
        self, world_size: int, job: Job, *arguments: Any, answers: int | None = None
    ) -> list[Any]:
        """Return what ``job(group, *arguments)`` returns on each rank of a group.

        With *answers*, only so many ranks are waited for; the others may have no result.
        """
        pipes = self._pipes[self.size - world_size :]
        for pipe in pipes:
            pipe.send((world_size, job, arguments))
        results: dict[int, Any] = {}
        deadline = time.monotonic() + 60
        while (
            _answers(results) < (answers or world_size)
            and (left := deadline - time.monotonic()) > 0
        ):
            for ready in wait([p for i, p in enumerate(pipes) if i not in results], left):
                assert isinstance(ready, Connection)
                results[pipes.index(ready)] = _receive(ready)
        return [results.get(rank) for rank in range(world_size)]

    def close(self) -> None:
        """End every worker, frozen ones included; raise if one is left."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join(10)
        assert not any(process.is_alive() for process in self.processes)
        self._store.cleanup()


def _answers(results: dict[int, Any]) -> int:
    return sum(not isinstance(result, Lost) for result in results.values())


def _receive(pipe: Connection) -> Any:
    try:
        succeeded, result = pipe.recv()
    except EOFError:
        return Lost()
    if not succeeded:
        raise RuntimeError(f"in a worker:\n{result}")
    return result


def _serve(
    rank: int,
    size: int,
    world_sizes: Sequence[int],
    backend: str,
    store: str,
    pipe: Connection,
) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    if torch.cuda.is_available():
        torch.cuda.set_device(rank % torch.cuda.device_count())
    dist.init_process_group(
        backend,
        init_method=f"file://{store}",
        rank=rank,
        world_size=size,
        timeout=GLOO_TIMEOUT,
    )
    groups = {n: dist.new_group(list(range(size - n, size))) for n in world_sizes}
    while True:
        try:
            world_size, job, arguments = pipe.recv()
        except EOFError:  # the tests are over
            os._exit(0)
        try:
            answer = True, job(groups[world_size], *arguments)
        except Exception:  # noqa: BLE001 - whatever it is, the test has to show it
            answer = False, traceback.format_exc()
        pipe.send(answer)
