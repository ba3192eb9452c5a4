"""A rank of Open MPI or MPICH, whichever mpirun has started it.

mpirun ... python -m benchmarks.mpi.mpi_rank LIBRARY SOCKET
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from mpi4py import MPI

from benchmarks.mpi.orders import Floats, serve


class MpiLibrary:
    """MPI by mpi4py."""

    def __init__(self) -> None:
        self.rank: int = MPI.COMM_WORLD.rank
        self.world_size: int = MPI.COMM_WORLD.size
        self.buffer: Floats = np.zeros(0, np.float32)

    def resize(self, length: int) -> None:
        """Have a buffer of so many elements."""
        self.buffer = np.zeros(length, np.float32)

    def way(self, name: str) -> Callable[[], object]:
        """Return the library's one all-reduce, which chooses the algorithm itself."""
        del name
        return lambda: MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, self.buffer)

    def barrier(self) -> None:
        """Wait for all ranks."""
        MPI.COMM_WORLD.Barrier()


if __name__ == "__main__":
    serve(MpiLibrary(), *sys.argv[1:])
