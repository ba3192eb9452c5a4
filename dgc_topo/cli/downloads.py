"""Command ``dgc-topo data``: full data sets from the net."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dgc_topo.cli.console import clear_errors, console
from dgc_topo.cli.outputs import check_folder


class Downloadable(StrEnum):
    """Data sets that ``dgc-topo data`` can fetch."""

    FASHION_MNIST = "fashion-mnist"


def data(
    name: Annotated[Downloadable, typer.Argument(help="which data set")],
    destination: Annotated[Path | None, typer.Option(help="folder to put it in")] = None,
) -> None:
    """Fetch a full data set, with its checksums checked."""
    from dgc_topo.cli.progress import downloading
    from dgc_topo.training.data import fetch_fashion_mnist

    with clear_errors():
        check_folder("--destination", destination)
        with downloading(console) as report:
            folder = fetch_fashion_mnist(destination, report)
        console.print(f"{name.value}: {folder}")
