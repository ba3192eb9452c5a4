"""Starting the ranks of Open MPI, MPICH and torch on the hosts of one lab, and giving them orders.

mpirun enters the hosts by a script in the place of ssh: Open MPI's ``plm_rsh_agent``, MPICH's
``-launcher-exec``.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from dgc_topo.workers import LaunchError, Session
from dgc_topo.workers.lab import Lab
from dgc_topo.workers.lab.spec import INTERFACE, address_of

#: Commands, by library, without hosts, script and program.  Processes are not bound to cores: every
#: host would choose the first one.  With 8 ranks on 2 cores those that wait have to give way.
MPIRUN = {
    "openmpi": (
        *("mpirun.openmpi", "--allow-run-as-root", "--bind-to", "none", "--map-by", "node"),
        *("--mca", "pml", "ob1", "--mca", "btl", "tcp,self", "--mca", "mpi_yield_when_idle", "1"),
        *("--mca", "btl_tcp_if_include", INTERFACE, "--mca", "oob_tcp_if_include", INTERFACE),
    ),
    "mpich": ("mpirun.mpich", "-launcher", "ssh", "-iface", INTERFACE, "-ppn", "1"),
}
#: Names that mpi4py's wheel loads the libraries by, and those that Debian gives them.
_LIBRARY_FILES = {"openmpi": ("libmpi.so.40",) * 2, "mpich": ("libmpi.so.12", "libmpich.so.12")}

#: Enters the network of a host, and gives it a name of its own: libraries of MPI take processes on
#: machines of one name for neighbours that share memory.
_ENTER = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
host=$1; shift
read -r pid < FOLDER/$host
exec nsenter --net=/proc/$pid/ns/net unshare --uts sh -c "hostname $host; $*"
"""
_START_WITHIN_S = 60.0
_ANSWER_WITHIN_S = 120.0
_SHOWN_LINES = 15


def missing() -> str | None:
    """Return the first thing that this machine lacks, or None."""
    for library, command in MPIRUN.items():
        if shutil.which(command[0]) is None:
            return f"no {command[0]}, expected {library} (Debian: openmpi-bin and mpich)"
    if find_spec("mpi4py") is None:
        return "no mpi4py, expected pip install 'dgc-topo[mpi]'"
    if os.geteuid():
        return "not root, expected root: a script has to enter the lab's hosts"
    return None


class Ranks:
    """The ranks of all libraries; each library carries out one order at a time.

    Args:
        streams: Of every rank's orders, by library and rank.
    """

    def __init__(self, streams: Mapping[tuple[str, int], IO[str]]) -> None:
        self._streams = streams

    def order(self, library: str, **order: Any) -> list[dict[str, Any]]:
        """Give an order to all ranks of a library, and return their answers.

        Raises:
            RuntimeError: if a rank is gone.
        """
        mine = [stream for (name, _), stream in self._streams.items() if name == library]
        for stream in mine:
            stream.write(json.dumps(order) + "\n")
            stream.flush()
        lines = [stream.readline() for stream in mine]
        if not all(lines):
            raise RuntimeError(f"{library}: a rank has ended during {order}")
        return [json.loads(line) for line in lines]


@contextmanager
def start_ranks(lab: Lab, world_size: int) -> Iterator[Ranks]:
    """Start a rank of every library on each host.

    Raises:
        RuntimeError: if ranks do not come within a minute; with what their mpirun printed.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = folder / "orders"
        torch = threading.Thread(target=_serve_torch, args=(lab, world_size, path))
        ending = stack.enter_context(ExitStack())  # after the sockets are closed
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(path))
        listener.listen(64)
        listener.settimeout(_START_WITHIN_S)
        _name_hosts(lab, folder, world_size)
        for library in MPIRUN:
            _start_mpi(lab, library, folder, world_size)
        torch.start()
        ending.callback(torch.join)
        streams: dict[tuple[str, int], IO[str]] = {}
        while len(streams) < world_size * (len(MPIRUN) + 1):
            stream = stack.enter_context(_accepted(listener, folder, streams))
            hello = json.loads(stream.readline())
            streams[hello["library"], hello["rank"]] = stream
        yield Ranks(streams)


def _name_hosts(lab: Lab, folder: Path, world_size: int) -> None:
    """Keep a process on every host, and write the script that finds the host by its number."""
    for host in range(world_size):
        path = folder / address_of(host)
        _start(lab, host, ["sh", "-c", f"echo $$ > {path}.new; mv {path}.new {path}; sleep inf"], 2)
    until_s = time.monotonic() + _START_WITHIN_S
    while not all((folder / address_of(host)).exists() for host in range(world_size)):
        if time.monotonic() > until_s:
            raise RuntimeError("the hosts of the lab do not start, expected them within a minute")
        time.sleep(0.01)
    script = folder / "enter"
    script.write_text(_ENTER.replace("FOLDER", str(folder)))
    script.chmod(0o755)


def _start_mpi(lab: Lab, library: str, folder: Path, world_size: int) -> None:
    hosts = [address_of(host) for host in range(world_size)]
    script = str(folder / "enter")
    if library == "openmpi":
        where = ["--host", ",".join(hosts), "--mca", "plm_rsh_agent", script]
    else:
        where = ["-hosts", ",".join(hosts), "-launcher-exec", script]
    program = [sys.executable, "-m", "benchmarks.mpi.mpi_rank", library, str(folder / "orders")]
    settings = {
        "OMP_NUM_THREADS": "1",
        "MPI4PY_MPIABI": library,
        "UCX_TLS": "tcp,self",  # which MPICH sends by
        "UCX_NET_DEVICES": INTERFACE,
        "LD_LIBRARY_PATH": str(_named_as_expected(library, folder)),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    command = [*MPIRUN[library], *where, "-n", str(world_size), *program]
    with (folder / f"{library}.log").open("wb") as log:
        _start(lab, 0, command, log.fileno(), settings)


def _named_as_expected(library: str, folder: Path) -> Path:
    """Return a folder with a link to a library, called what mpi4py's wheel expects."""
    expected, name = _LIBRARY_FILES[library]
    found = next(Path("/usr/lib").glob(f"*/{name}"), None)
    if found is None:
        raise RuntimeError(f"{library}: no {name} in /usr/lib, expected Debian's package")
    (folder / library).mkdir()
    (folder / library / expected).symlink_to(found)
    return folder / library


def _start(
    lab: Lab, host: int, command: Sequence[str], output: int, more: Mapping[str, str] | None = None
) -> None:
    """Start a process on a host; it ends with the lab."""
    with Path(os.devnull).open() as nothing:
        lab.start(host, command, {**os.environ, **(more or {})}, nothing.fileno(), output)


def _serve_torch(lab: Lab, world_size: int, path: Path) -> None:
    try:
        with Session(lab, world_size) as session:
            session.call("benchmarks.mpi.torch_rank:serve_torch", str(path))
    except LaunchError as error:
        path.with_name("torch.log").write_text(str(error))


def _accepted(
    listener: socket.socket, folder: Path, come: Mapping[tuple[str, int], object]
) -> IO[str]:
    try:
        connection, _ = listener.accept()
    except TimeoutError:
        logs = [path.read_text(errors="replace") for path in sorted(folder.glob("*.log"))]
        lines = "\n".join(log for log in logs if log).splitlines()[-_SHOWN_LINES:]
        raise RuntimeError(
            f"of all ranks {sorted(come)} have come, expected each within a minute\n"
            + "\n".join(lines)
        ) from None
    connection.settimeout(_ANSWER_WITHIN_S)
    with connection:  # the stream keeps it open
        return connection.makefile("rw")
