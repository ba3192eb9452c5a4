"""Hosts for worker processes (the `Hosts` protocol), and the loopback of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Protocol, Self

from dgc_topo.workers.children import PARENT_VARIABLE

#: Tells a worker what to call the network in its records.
NETWORK_VARIABLE = "DGC_TOPO_NETWORK"
#: Names the interface that carries all of a worker's traffic, and nobody else's.
INTERFACE_VARIABLE = "DGC_TOPO_INTERFACE"
#: Variable with the factor by which a worker has to slow its computing.
TIME_SCALE_VARIABLE = "DGC_TOPO_TIME_SCALE"


class Process(Protocol):
    """A process on a host; `subprocess.Popen` is one."""

    @property
    def pid(self) -> int:
        """Process id on the launching machine."""

    @property
    def returncode(self) -> int | None:
        """Exit status as `poll` last saw it; negative for a signal."""

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status once it has ended.

        Raises:
            subprocess.TimeoutExpired: if it still runs after *timeout* seconds.
        """

    def send_signal(self, number: int, /) -> None:
        """Send it a signal, unless it has ended."""


class Hosts(Protocol):
    """A place for worker processes.  It is up inside its ``with`` block."""

    @property
    def name(self) -> str:
        """The name of the network between the workers in records."""

    @property
    def num_ranks(self) -> int | None:
        """The largest world size that fits; None if there is no limit."""

    def environment(self, rank: int, world_size: int) -> dict[str, str]:
        """Return the variables by which a rank finds its place, as torchrun sets them."""

    def start(
        self,
        rank: int,
        command: Sequence[str],
        environment: Mapping[str, str],
        stdin: int,
        output: int,
    ) -> Process:
        """Start a process on the host of *rank*; it ends whenever this process ends.

        Args:
            rank: Decides the host.
            command: Program and arguments.
            environment: All of its variables.
            stdin: Descriptor of its standard input.
            output: Descriptor of its standard output and error.
        """

    def begin(self) -> None:
        """Start the clock of timed changes of the network; all ranks are ready."""


class Loopback:
    """This machine itself: every worker talks over the loopback interface."""

    name = "loopback"
    num_ranks = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave; there is nothing to take down."""

    def environment(self, rank: int, world_size: int) -> dict[str, str]:
        """Return the variables of a rank: all ranks are on one machine."""
        return {
            "RANK": str(rank),
            "WORLD_SIZE": str(world_size),
            "LOCAL_RANK": str(rank),
            "LOCAL_WORLD_SIZE": str(world_size),
            "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
            "OMP_NUM_THREADS": "1",
            NETWORK_VARIABLE: self.name,
        }

    def start(
        self,
        rank: int,  # there is one host only
        command: Sequence[str],
        environment: Mapping[str, str],
        stdin: int,
        output: int,
    ) -> Process:
        """Start a process, which ends with this one (see `children`)."""
        return subprocess.Popen(
            command,
            env={**environment, PARENT_VARIABLE: str(os.getpid())},
            stdin=stdin,
            stdout=output,
            stderr=output,
        )

    def begin(self) -> None:
        """Begin; nothing happens to the loopback interface."""
