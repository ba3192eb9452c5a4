"""Fetching a data set, with a progress bar."""

from __future__ import annotations

from pathlib import Path

from rich.progress import DownloadColumn, Progress, TaskID, TransferSpeedColumn

from dgc_topo.cli.console import console
from dgc_topo.training.data import fetch_fashion_mnist


def fetch(destination: Path | None) -> Path:
    """Fetch Fashion-MNIST and return its folder.

    Raises:
        DataError: if no source works; the text lists what was tried and what to do.
    """
    columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done, total=total)

        return fetch_fashion_mnist(destination, report)
