"""Scripts on several processes, started as torchrun starts them, but with torch imported already.

Importing torch and the libraries above it takes longer than a short script.  The processes are
forked from one that has done so.
"""

import os
import re
import signal
import socket
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from dgc_topo.workers.children import python_command
from dgc_topo.workers.forks import ForkedLoopback

LIBRARIES = ("accelerate", "lightning.pytorch", "transformers.trainer")
OURS = ("dgc_topo.training.hooks.fsdp.compress",)
PATIENCE_S = 150


class Scripts(ForkedLoopback):
    """Processes that run scripts; up inside its ``with`` block."""

    def __init__(self) -> None:
        there = [name for name in LIBRARIES if find_spec(name.partition(".")[0]) is not None]
        super().__init__((*OURS, *there))

    def run(self, path: Path, *arguments: str, processes: int = 2) -> str:
        """Return what the ranks of a script print.

        Raises:
            AssertionError: if one fails or hangs, with what they printed.
        """
        command = python_command("tests.examples.script", str(path), *arguments)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        with tempfile.TemporaryFile() as output, Path(os.devnull).open("rb") as nothing:
            ranks = [
                self.start(
                    rank,
                    command,
                    _environment(rank, processes, port),
                    nothing.fileno(),
                    output.fileno(),
                )
                for rank in range(processes)
            ]
            deadline = time.monotonic() + PATIENCE_S
            while None in [rank.poll() for rank in ranks] and time.monotonic() < deadline:
                time.sleep(0.02)
            ends = [rank.poll() for rank in ranks]
            for rank in ranks:
                rank.send_signal(signal.SIGKILL)
            output.seek(0)
            text = output.read().decode("utf-8", "replace")
        assert ends == [0] * processes, f"{path}: {ends}\n{text}"
        return text

    def loss(self, path: Path, *arguments: str, processes: int = 2) -> float:
        """Return the loss that a script prints last: a line "loss NUMBER"."""
        text = self.run(path, *arguments, processes=processes)
        found = re.findall(r"^loss ([0-9.e+-]+)$", text, re.MULTILINE)
        assert found, f"{path}: no loss\n{text}"
        return float(found[-1])


def _environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    return dict(os.environ) | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }
