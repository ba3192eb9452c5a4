"""A rank of torch: Gloo's all-reduce, and ours over Gloo."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
import torch.distributed as dist

import dgc_topo as dt
from benchmarks.mpi.orders import GLOO, TORCH, Floats, serve
from dgc_topo.workers.group import Worker


class TorchLibrary:
    """Gloo by torch.distributed, and our topologies."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size
        self.resize(0)

    def resize(self, length: int) -> None:
        """Have a buffer of so many elements."""
        self._tensor = torch.zeros(length)
        self.buffer: Floats = self._tensor.numpy()

    def way(self, name: str) -> Callable[[], object]:
        """Return Gloo's all-reduce, or ours over the topology called *name*."""
        tensor = self._tensor
        if name == GLOO:
            return lambda: dist.all_reduce(tensor)
        topology = dt.load_topology(name)
        return lambda: dt.all_reduce(tensor, topology)

    def barrier(self) -> None:
        """Wait for all ranks."""
        dist.barrier()


def serve_torch(worker: Worker, path: str) -> None:
    """Serve as a rank of a `dgc_topo.workers.Session`; *path* is of the socket of orders."""
    os.environ.pop("LOCAL_WORLD_SIZE", None)  # or Gloo may take the ranks to share memory
    serve(TorchLibrary(worker.rank, worker.world_size), TORCH, path)
