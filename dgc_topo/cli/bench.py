"""Measurements of single parts on this machine."""

from __future__ import annotations

import typer

from dgc_topo.cli.collectives import collectives

bench = typer.Typer(no_args_is_help=True, help="Measure single parts on this machine.")


@bench.callback()
def group() -> None:
    """Measure single parts on this machine."""


bench.command()(collectives)
