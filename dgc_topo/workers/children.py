"""Interpreters that this package starts: what they import, and how long they live.

A child never looks for modules where the user stands: a ``random.py`` there would be imported in
place of Python's own.  What else is importable here is importable there, but comes last.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self, TypeVar

T = TypeVar("T")

_SAFE_PATH = "PYTHONSAFEPATH"

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
    """Have this process, which `multiprocessing` started, end when its parent does, however."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()


def _follow(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


class Starter:
    """A thread that starts processes, and lives until it is closed, or as long as this process.

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
        """Return what the function returns, called in the thread."""
        done: Future[T] = Future()

        def job() -> None:
            try:
                done.set_result(function(*arguments))
            except BaseException as error:  # noqa: BLE001 - it is raised in the thread that asked
                done.set_exception(error)

        self._jobs.put(job)
        return done.result()

    def settle(self) -> None:
        """Wait until the thread has done what it was asked to, even if nobody waited for it."""
        self.call(lambda: None)

    def close(self) -> None:
        """End the thread, once it has done what it was asked to, and with it what it started."""
        self._jobs.put(None)
        self._thread.join()

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
