"""The `Lab`: an emulated cluster on this machine, as its owner uses it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import IO, Any, Self

from dgc_topo.workers import remote
from dgc_topo.workers.children import Starter, nameless_file, python_command, python_environment
from dgc_topo.workers.hosts import INTERFACE_VARIABLE, NETWORK_VARIABLE, TIME_SCALE_VARIABLE
from dgc_topo.workers.lab.counters import HostCounters
from dgc_topo.workers.lab.doctor import examine
from dgc_topo.workers.lab.spec import INTERFACE, LabError, LabSpec, address_of
from dgc_topo.workers.remote import RemoteProcess

_ANSWER_WITHIN_S = 60.0
_END_WITHIN_S = 10.0
_MASTER_PORT = 29500


class Lab:
    """Hosts with network namespaces of their own, joined by links of a given rate.

    Use it as a context manager; it is up inside the ``with`` block.  Run functions on it with
    `dgc_topo.workers.run_on`.  When this process ends, even by SIGKILL, everything in the lab ends.
    The machine's own network is never touched.  Methods may be called from any
    thread, also while workers run.

    Args:
        spec: Hosts and links to build.

    Raises:
        LabError: (on entering) if this machine or this user cannot have it.
        ValueError: (on entering) if the kernel does not know the congestion control.

    Attributes:
        spec: The specification.
        user_namespace: True if it took a user namespace; known once the lab is up.
    """

    def __init__(self, spec: LabSpec) -> None:
        self.spec = spec
        self.user_namespace = False
        self._lock = threading.Lock()
        self._starter: Starter | None = None
        self._daemon: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._errors: IO[bytes] | None = None

    @property
    def name(self) -> str:
        """The name of this network in records."""
        return self.spec.name

    @property
    def num_ranks(self) -> int:
        """The largest world size that fits."""
        return self.spec.num_ranks

    @property
    def interface(self) -> str:
        """Name of the interface that every host has."""
        return INTERFACE

    def __enter__(self) -> Self:
        if sys.platform != "linux":
            raise LabError(f"the lab cannot be built: it needs Linux, this is {sys.platform}")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_ANSWER_WITHIN_S)
        self._control = ours
        self._errors = nameless_file()  # closed in close()
        self._starter = Starter()
        try:
            with theirs:
                self._starter.call(self._start_daemon, theirs, self._errors)
            ready = self._exchange(self.spec.to_json(), ())
        except BaseException as error:
            self.close()
            if isinstance(error, LabError):
                missing = examine().missing or str(error)
                raise LabError(
                    f"the lab cannot be built: {missing} (all about it: dgc-topo lab doctor)"
                ) from error
            raise
        self.user_namespace = bool(ready["user_namespace"])
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process in the lab, and the lab; return when all are gone."""
        if self._starter is None:
            return
        self._starter.settle()
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._daemon is not None:
            try:
                self._daemon.wait(_END_WITHIN_S)
            except subprocess.TimeoutExpired:
                self._daemon.kill()
                self._daemon.wait()
        if self._errors is not None:
            self._errors.close()
            self._errors = None
        self._starter.close()
        self._starter = None

    def set_rate(self, host: int, rate_bits_per_s: float | None) -> None:
        """Change the rate of a host's link, both directions; None takes the shaping away.

        Raises:
            ValueError: if there is no such host, or the rate is out of range.
            LabError: if the lab is not up, or the kernel refuses.
        """
        self.spec.check_host(host, "set_rate")
        self.spec.check_link(rate_bits_per_s, "set_rate")
        self._ask("rate", host=host, rate_bits_per_s=rate_bits_per_s)

    def cut(self, host: int) -> None:
        """Cut a host off: its link is down, and every frame from and to it is lost.

        Connections outlive it: TCP repeats what was lost once the link is restored.

        Raises:
            ValueError: if there is no such host.
            LabError: if the lab is not up.
        """
        self.spec.check_host(host, "cut")
        self._ask("cut", host=host)

    def restore(self, host: int) -> None:
        """Undo `cut`; the link has the rate it had.

        Raises:
            ValueError: if there is no such host.
            LabError: if the lab is not up.
        """
        self.spec.check_host(host, "restore")
        self._ask("restore", host=host)

    def counters(self) -> list[HostCounters]:
        """Return the counters of every host's interface since the lab is up, by host.

        Raises:
            LabError: if the lab is not up.
        """
        return [HostCounters(**counted) for counted in self._ask("counters")]

    def begin(self) -> None:
        """Start the clock of the timed changes; if there are any, every link is `reset` first.

        `dgc_topo.workers` does this whenever all ranks are ready for a call.
        """
        self._ask("begin")

    def reset(self) -> None:
        """Give every link the rate that the specification says, and undo cuts.

        Raises:
            LabError: if the lab is not up.
        """
        self._ask("reset")

    def environment(self, rank: int, world_size: int) -> dict[str, str]:
        """Return the variables of a rank, as torchrun sets them on several machines."""
        per_host = self.spec.ranks_per_host
        # Gloo takes a LOCAL_WORLD_SIZE of all ranks as a hint that they share memory.
        local_world_size = min(per_host, world_size - rank // per_host * per_host)
        return {
            "RANK": str(rank),
            "WORLD_SIZE": str(world_size),
            "LOCAL_RANK": str(rank % per_host),
            "LOCAL_WORLD_SIZE": str(local_world_size),
            "GROUP_RANK": str(rank // per_host),
            "MASTER_ADDR": address_of(0),
            "MASTER_PORT": str(_MASTER_PORT),
            "GLOO_SOCKET_IFNAME": INTERFACE,
            "OMP_NUM_THREADS": "1",
            NETWORK_VARIABLE: self.name,
            TIME_SCALE_VARIABLE: str(self.spec.time_scale),
            **({INTERFACE_VARIABLE: INTERFACE} if per_host == 1 else {}),
        }

    def start(
        self,
        rank: int,
        command: Sequence[str],
        environment: Mapping[str, str],
        stdin: int,
        output: int,
    ) -> RemoteProcess:
        """Start a process on the host of a rank, as `dgc_topo.workers.Hosts.start`.

        Raises:
            LabError: if the lab is not up, or the program cannot be started.
        """
        answer = self._ask(
            "start",
            (stdin, output),
            host=rank // self.spec.ranks_per_host,
            command=list(command),
            environment=dict(environment),
            folder=os.getcwd(),  # noqa: PTH109 - a string, as it is sent
        )
        return RemoteProcess(self._ask, answer["process"], answer["pid"])

    def _start_daemon(self, control: socket.socket, errors: IO[bytes]) -> None:
        arguments = str(control.fileno()), str(os.getpid())
        self._daemon = subprocess.Popen(
            python_command("dgc_topo.workers.lab.daemon", *arguments),
            env=python_environment(),
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            pass_fds=[control.fileno()],
            start_new_session=True,  # a terminal's signals are for the owner
        )

    def _ask(self, do: str, descriptors: Sequence[int] = (), **arguments: Any) -> Any:
        return self._exchange({"do": do, **arguments}, descriptors)

    def _exchange(self, request: Mapping[str, Any], descriptors: Sequence[int]) -> Any:
        with self._lock:
            if self._control is None:
                raise LabError("the lab is not up, expected this inside its 'with' block")
            try:
                remote.send(self._control, request, descriptors)
                answer, _ = remote.receive(self._control)
            except OSError as error:
                raise LabError(
                    f"its daemon is gone or frozen: {error}{self._last_output}"
                ) from error
        if answer is None:
            raise LabError(f"its daemon ended{self._last_output}")
        if "wrong" in answer:
            raise ValueError(answer["wrong"])
        if "error" in answer:
            raise LabError(answer["error"])
        return answer["value"]

    @property
    def _last_output(self) -> str:
        """The last lines that the daemon printed."""
        assert self._errors is not None
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return "".join(f"\n  {line}" for line in lines[-5:])
