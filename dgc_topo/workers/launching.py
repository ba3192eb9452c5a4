"""Functions of one's own on workers of this machine, from a notebook or a script: `launch`.

The function goes to the workers pickled by value (cloudpickle), so that one from a notebook's cell
works: a process trusts itself.  What comes back is read without unpickling (`plain_values`).
"""

from __future__ import annotations

import io
import linecache
import sys
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import (
    AbstractContextManager,
    ExitStack,
    contextmanager,
    redirect_stderr,
    redirect_stdout,
)
from pathlib import Path
from types import CodeType
from typing import IO, Any, ClassVar, Literal

import cloudpickle

from dgc_topo.workers.children import new_rendezvous, path_for_children
from dgc_topo.workers.forks import ForkedLoopback, can_fork
from dgc_topo.workers.group import Worker
from dgc_topo.workers.hosts import Hosts, Loopback
from dgc_topo.workers.plain_values import read_value, write_value
from dgc_topo.workers.session import Session

#: Modules that a forked worker has imported when it starts.
_MODULES = ("dgc_topo.workers.joining", "dgc_topo.workers.launching")


def launch(
    function: Callable[..., Any],
    num_workers: int,
    /,
    *arguments: Any,
    device: Literal["cpu", "cuda", "auto"] = "cpu",
    timeout_s: float = 60.0,
) -> list[Any]:
    """Call a function on worker processes of this machine, and return its results by rank.

    The function may be defined in a notebook's cell, or in a script without ``if __name__ ==
    "__main__"``.  The notebook's own process is not forked.  Inside the function,
    `torch.distributed` is initialised, so that ``dt.all_reduce``, ``dt.hook`` and
    ``dt.DistributedOptimizer`` work::

        >>> import torch
        >>> def work(scale):
        ...     rank = torch.distributed.get_rank()
        ...     total = torch.full((2,), scale * rank)
        ...     dt.all_reduce(total, "ring")
        ...     return total
        >>> dt.launch(work, 3, 10.0)
        [tensor([30., 30.]), tensor([30., 30.]), tensor([30., 30.])]

    Workers have copies of what the function uses from outside: return what it makes.  A line that a
    worker prints is printed here, after its rank: ``[0] loss 2.31``.  Every rank draws the same
    random numbers until it sets a seed of its own.

    Args:
        function: Called as ``function(*arguments)`` in every worker.
        num_workers: Number of processes: the world size.
        arguments: The same for every rank.
        device: Device whose tensors the workers exchange.  "auto" is a GPU for each worker where
            there are enough of them, over NCCL.
        timeout_s: Time after which a silent peer is an error.

    Returns:
        What the function returned on each rank: tensors (on the CPU), NumPy arrays, numbers, texts,
        None, and lists, tuples and dictionaries of these.

    Raises:
        ValueError: if an argument is wrong, or the function cannot be sent to other processes.
        RuntimeError: (`LaunchError`) if a worker fails.  All others are ended first.  The text
            names the rank, and ends with its traceback.
    """
    hosts = ForkedLoopback(_MODULES) if can_fork() else Loopback()
    return call_on(hosts, function, num_workers, *arguments, device=device, timeout_s=timeout_s)


def call_on(
    place: AbstractContextManager[Hosts],
    function: Callable[..., Any],
    num_workers: int,
    /,
    *arguments: Any,
    device: Literal["cpu", "cuda", "auto"] = "cpu",
    timeout_s: float = 60.0,
) -> list[Any]:
    """Call a function on workers of hosts on this machine, which start here; see `launch`."""
    _check(function, num_workers, device, timeout_s)
    content = _pickled(function, arguments)
    with ExitStack() as stack:
        call, *results = (stack.enter_context(new_rendezvous()) for _ in range(1 + num_workers))
        call.write(content)
        call.flush()
        argument = {
            "call": path_for_children(call),
            "results": [path_for_children(file) for file in results],
            "folder": str(Path.cwd()) if "" in sys.path else None,
            "sources": _sources(),
        }
        backend: Literal["auto", "gloo"] = "gloo" if device == "cpu" else "auto"
        hosts = stack.enter_context(place)
        session = stack.enter_context(
            Session(hosts, num_workers, device=device, backend=backend, timeout_s=timeout_s)
        )
        session.call("dgc_topo.workers.launching:serve_call", argument, listen=_print)
        return [_read(file) for file in results]


def serve_call(worker: Worker, argument: Mapping[str, Any]) -> None:
    """Call the function that `launch` sent, in a worker, and write down what it returns."""
    if argument["folder"] is not None and argument["folder"] not in sys.path:
        sys.path.append(argument["folder"])  # last: a random.py there must not replace Python's
    for name, lines in argument["sources"].items():  # of cells, for tracebacks
        linecache.cache[name] = (sum(map(len, lines)), None, lines, name)
    function, arguments = cloudpickle.loads(Path(argument["call"]).read_bytes())
    with _told(worker):
        value = function(*arguments)
    with Path(argument["results"][worker.rank]).open("wb") as file:
        write_value(file, value, "result")


def _check(function: object, num_workers: object, device: object, timeout_s: float) -> None:
    if not callable(function):
        raise ValueError(f"function: {function!r}, expected a function")  # noqa: TRY004
    if not isinstance(num_workers, int) or num_workers < 1:
        raise ValueError(f"num_workers: {num_workers!r}, expected a whole number from 1")
    if device not in {"cpu", "cuda", "auto"}:
        raise ValueError(f"device: {device!r}, expected 'cpu', 'cuda' or 'auto'")
    if not timeout_s > 0:
        raise ValueError(f"timeout_s: {timeout_s!r}, expected more than 0")


def _pickled(function: Callable[..., Any], arguments: tuple[Any, ...]) -> bytes:
    content = io.BytesIO()
    try:
        _Pickler(content).dump((function, arguments))
    except Exception as error:  # whatever an object's own way of being pickled raises
        name = getattr(function, "__qualname__", repr(function))
        raise ValueError(
            f"function {name}: it, or what it uses from outside, cannot be sent to other "
            f"processes: {error}; expected that it makes or opens such things itself"
        ) from error
    return content.getvalue()


def _reduced_code(code: CodeType) -> tuple[Callable[..., CodeType], tuple[Any, ...]]:
    make, arguments = cloudpickle.CloudPickler.dispatch_table[CodeType](code)
    return _code_in_file, (code.co_filename, make, arguments)


def _code_in_file(name: str, make: Callable[..., CodeType], arguments: Sequence[Any]) -> CodeType:
    return make(*arguments).replace(co_filename=name)


class _Pickler(cloudpickle.CloudPickler):  # type: ignore[misc]  # has no type information
    """A pickler whose functions keep their file's name, so that tracebacks show lines of cells."""

    dispatch_table: ClassVar = ChainMap(
        {CodeType: _reduced_code}, cloudpickle.CloudPickler.dispatch_table
    )


def _sources() -> dict[str, list[str]]:
    """Return the lines of what has no file: a notebook's cells."""
    entries = [(name, entry) for name, entry in linecache.cache.items() if len(entry) > 1]
    return {name: entry[2] for name, entry in entries if entry[1] is None}


def _read(file: IO[bytes]) -> Any:
    file.seek(0)
    return read_value(file)


def _print(told: Mapping[str, Any]) -> None:
    stream = sys.stderr if told["is_error"] else sys.stdout
    stream.write(f"[{told['rank']}] {told['line']}\n")
    stream.flush()


@contextmanager
def _told(worker: Worker) -> Iterator[None]:
    """Give the launcher the lines that are printed in the block."""
    with (
        _Lines(worker, is_error=False) as output,
        _Lines(worker, is_error=True) as errors,
        redirect_stdout(output),
        redirect_stderr(errors),
    ):
        yield


class _Lines(io.TextIOBase):
    """A text stream whose lines go to the launcher."""

    def __init__(self, worker: Worker, *, is_error: bool) -> None:
        self._worker, self._is_error, self._begun = worker, is_error, ""

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str) -> int:
        """Write a text; its last line waits for its end."""
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._worker.tell({"rank": self._worker.rank, "is_error": self._is_error, "line": line})
        return len(text)

    def close(self) -> None:
        """Write what has no end yet."""
        if self._begun and not self.closed:
            self.write("\n")
        super().close()
