"""The process that owns a lab's namespaces; when it ends, everything in the lab ends.

`Lab` starts it as a fresh interpreter.  It makes the network, starts processes on the hosts, and
answers requests.  Nothing in the lab has a name outside, so all of it disappears with its last
process.  The processes are in a process-id namespace: when its first process ends, the kernel ends
all others.  That first process dies with the daemon, and the daemon with the owner, whose end it
sees in three ways (the kernel's signal, the end of the control socket, and the owner's process
descriptor).
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError

from dgc_topo.workers import remote
from dgc_topo.workers.lab import namespaces
from dgc_topo.workers.lab.namespaces import leave_machine
from dgc_topo.workers.lab.network import LabNetwork
from dgc_topo.workers.lab.spec import LabChange, LabError, LabSpec

#: Refusals of the kernel, or of a library on the way to it.
REFUSALS = (OSError, NetlinkError, subprocess.SubprocessError, struct.error, ValueError)


class LabDaemon:
    """Answers the owner's requests, one at a time, and carries out timed changes between them."""

    def __init__(self, spec: LabSpec, control: socket.socket, owner: int) -> None:
        self._spec, self._control, self._owner = spec, control, owner
        self._network = LabNetwork(spec)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._pending: list[LabChange] = []
        self._began_s = 0.0
        self._answers: Mapping[str, Callable[..., Any]] = {
            "start": self._start,
            "poll": lambda process: self._processes[process].poll(),
            "signal": lambda process, number: self._processes[process].send_signal(number),
            "rate": self._network.set_rate,
            "cut": self._network.cut,
            "restore": self._network.restore,
            "begin": self._begin,
            "reset": self._network.reset,
            "counters": lambda: [asdict(counted) for counted in self._network.counters()],
        }

    def serve(self) -> None:
        """Answer until the owner is gone or closes the control socket.

        Raises:
            LabError: if a timed change cannot be made.
        """
        while True:
            due_s = None
            if self._pending:
                due_s = max(0.0, self._began_s + self._pending[0].at_s - time.monotonic())
            control = self._control.fileno()
            ready, _, _ = select.select([control, self._owner], [], [], due_s)
            if self._owner in ready or (control in ready and not self._answer()):
                return
            self._make_due_changes()

    def _answer(self) -> bool:
        arguments, descriptors = remote.receive(self._control)
        if arguments is None:
            return False
        handler = self._answers[arguments.pop("do")]
        try:
            if descriptors:
                arguments["descriptors"] = descriptors
            answer = {"value": handler(**arguments)}
        except REFUSALS as error:
            answer = {"error": text_of(error)}
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        remote.send(self._control, answer)
        return True

    def _start(
        self,
        host: int,
        command: list[str],
        environment: dict[str, str],
        folder: str,
        descriptors: list[int],
    ) -> dict[str, int]:
        namespace = self._network.namespace(host)
        stdin, output = descriptors

        def move_in() -> None:
            namespaces.die_with_parent()
            namespaces.enter_network(namespace)
            namespaces.show_own_processes()

        process = subprocess.Popen(
            command,
            env=environment,
            cwd=folder,
            stdin=stdin,
            stdout=output,
            stderr=output,
            preexec_fn=move_in,  # noqa: PLW1509 - safe: this process has one thread only
        )
        self._processes.append(process)
        return {"process": len(self._processes) - 1, "pid": process.pid}

    def _begin(self) -> None:
        if self._spec.changes:
            self._network.reset()  # an earlier run's changes
        self._pending = sorted(self._spec.changes, key=lambda change: change.at_s)
        self._began_s = time.monotonic()

    def _make_due_changes(self) -> None:
        elapsed_s = time.monotonic() - self._began_s
        while self._pending and self._pending[0].at_s <= elapsed_s:
            change = self._pending.pop(0)
            try:
                self._make(change)
            except REFUSALS as error:
                what = f"link change {change.action!r} of host {change.host} at {change.at_s:g} s"
                raise LabError(f"lab: {what}: {text_of(error)}") from error

    def _make(self, change: LabChange) -> None:
        if change.action == "rate":
            self._network.set_rate(change.host, change.rate_bits_per_s)
        elif change.action == "cut":
            self._network.cut(change.host)
        else:
            self._network.restore(change.host)


def text_of(error: Exception) -> str:
    """Return one of `REFUSALS` as people read it."""
    if isinstance(error, NetlinkError):
        return f"the kernel refuses: {error.args[-1]}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {error.filename}" if error.filename else "")
    return str(error)


def main(control_descriptor: int, owner_pid: int) -> None:
    """Keep the lab that the first message on the control socket describes.

    Args:
        control_descriptor: Of a socket to the owner.
        owner_pid: Whose end is this process's, too; the thread of it that started this process
            lives as long as the lab.
    """
    control = socket.socket(fileno=control_descriptor)
    control.set_inheritable(False)
    owner = os.pidfd_open(owner_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the owner's to handle
    spec = LabSpec.from_json(remote.receive(control)[0])
    try:
        own_user = leave_machine()
        namespaces.die_with_parent()
        if os.getppid() != owner_pid:
            return
        daemon = LabDaemon(spec, control, owner)
        first, lifeline = _start_first_process(control, owner)
    except REFUSALS as error:
        kind = "wrong" if isinstance(error, ValueError) else "error"
        remote.send(control, {kind: text_of(error)})
        return
    try:
        remote.send(control, {"value": {"user_namespace": own_user}})
        daemon.serve()
    except LabError as error:
        sys.stderr.write(f"{error}\n")  # which the owner quotes
    finally:
        os.kill(first, signal.SIGKILL)  # and every process of the lab with it
        os.close(lifeline)
        # It cannot end before the others are; these are this process's children to take leave of.
        with suppress(ChildProcessError):
            while True:
                os.wait()


def _start_first_process(control: socket.socket, owner: int) -> tuple[int, int]:
    """Start the process with whose end the kernel ends all others.

    Returns:
        Its process id, and the descriptor whose closing ends it.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(reading)
        return pid, writing
    namespaces.die_with_parent()
    for descriptor in (control.fileno(), owner, writing):
        os.close(descriptor)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # orphans come here: let none stay as a zombie
    os.read(reading, 1)  # until the daemon is gone
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
