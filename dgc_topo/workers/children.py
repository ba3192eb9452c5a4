"""Child processes: their Python path, their lifetime, and files that they share.

A child never imports modules from the user's current folder: a ``random.py`` there would replace
Python's own.  Everything else that is importable here is importable there, but comes last.  Shared
files have no name if the system allows it, so that nothing remains of them after a crash.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any, Self, TypeVar

T = TypeVar("T")

_SAFE_PATH = "PYTHONSAFEPATH"
_NAMELESS = hasattr(os, "memfd_create")  # Linux

#: Tells a child the process id of its parent, with which it ends.
PARENT_VARIABLE = "DGC_TOPO_PARENT"

#: Has the kernel kill this process when the thread that started it ends, before anything that takes
#: long; imports this very package, wherever it is; then runs a module of it.
_START = f"""
import ctypes, importlib.util, json, os, runpy, signal, sys
parent = os.environ.pop("{PARENT_VARIABLE}", None)
if parent is not None and sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != int(parent):  # it died before we asked
        sys.exit("the launcher is gone")
_, folder, more, *sys.argv = sys.argv
sys.path += [path for path in json.loads(more) if path not in sys.path]
spec = importlib.util.spec_from_file_location(
    "dgc_topo", os.path.join(folder, "__init__.py"), submodule_search_locations=[folder])
sys.modules["dgc_topo"] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def python_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module of this package in an interpreter of its own."""
    more = [path for path in sys.path if path and isinstance(path, str)]
    package = str(Path(__file__).parents[1])
    return [sys.executable, "-P", "-c", _START, package, json.dumps(more), module, *arguments]


def module_of(command: Sequence[str]) -> list[str]:
    """Return the module and the arguments that `python_command` made a command of."""
    return list(command[len(python_command("")) - 1 :])


def python_environment() -> dict[str, str]:
    """Return this process's variables, fit for `python_command`.

    An empty entry of PYTHONPATH, such as ``$PYTHONPATH:/mine`` leaves where there was none before,
    would be the current folder.
    """
    environment = dict(os.environ)
    if "PYTHONPATH" in environment:
        entries = environment["PYTHONPATH"].split(os.pathsep)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, entries))
    return environment


@contextmanager
def safe_path() -> Iterator[None]:
    """Have what `multiprocessing` spawns start without the current folder, too."""
    before = os.environ.get(_SAFE_PATH)
    os.environ[_SAFE_PATH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SAFE_PATH]
        else:
            os.environ[_SAFE_PATH] = before


def end_with_parent() -> None:
    """Make this process, started by `multiprocessing`, end whenever its parent ends."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()


def _follow(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


class Starter:
    """A thread that starts processes; it lives until `close`, or as long as this process.

    The kernel's signal at a parent's death (`PR_SET_PDEATHSIG`) is sent when the *thread* that
    started the child ends.  A thread of an executor may end at any time; this one does not.
    Children inherit from it what they would from the thread that made it: which cores, and which
    scheduling policy.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        # A daemon, so that a process whose owner forgot to close this ends all the same.
        self._thread = threading.Thread(target=self._serve, name="dgc-topo-starter", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function in the thread, and return its result."""
        done: Future[T] = Future()

        def job() -> None:
            try:
                done.set_result(function(*arguments))
            except BaseException as error:  # noqa: BLE001 - it is raised in the thread that asked
                done.set_exception(error)

        self._jobs.put(job)
        return done.result()

    def settle(self) -> None:
        """Wait until the thread has finished all calls."""
        self.call(lambda: None)

    def close(self) -> None:
        """End the thread after its last call; the processes that it started end with it."""
        self._jobs.put(None)
        self._thread.join()

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


def nameless_file() -> IO[bytes]:
    """Return an open file without a name; in memory, where no temporary folder can be written."""
    try:
        return tempfile.TemporaryFile()
    except OSError:
        if not _NAMELESS:
            raise
        return os.fdopen(os.memfd_create("dgc-topo-file"), "w+b")


def new_rendezvous() -> IO[bytes]:
    """Return an open file for the workers of one group.

    Where the system can, it has no name, and the workers are given its descriptor; elsewhere it has
    one until it is closed, and is to stay open for as long as the group.
    """
    if _NAMELESS:
        return os.fdopen(os.memfd_create("dgc-topo-rendezvous"), "w+b")
    return tempfile.NamedTemporaryFile(prefix="dgc-topo-")


def path_for_children(file: IO[bytes]) -> str:
    """Return the path at which children of this process can open a file of `new_rendezvous`."""
    return f"/proc/{os.getpid()}/fd/{file.fileno()}" if _NAMELESS else str(file.name)


def descriptors_for_workers(*files: IO[bytes]) -> Sequence[int]:
    """Return the descriptors that a worker needs: of a meeting's file, and perhaps of a board."""
    return [file.fileno() for file in files] if _NAMELESS else []


def url_of(name: object, descriptors: Sequence[int]) -> str:
    """Return a file's URL for `torch.distributed.init_process_group`, as a worker sees the file.

    Args:
        name: Of the file.
        descriptors: Of the file, in this process; its name is not needed if there is one.
    """
    # Every store opens the file anew: a lock on it keeps out only who has opened it separately.
    return f"file:///proc/self/fd/{descriptors[0]}" if descriptors else f"file://{name}"
