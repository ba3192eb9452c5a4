"""`dgc-topo bench`: measurements, printed as tables."""

from __future__ import annotations

import typer

from dgc_topo.cli.bench_codec import codec
from dgc_topo.cli.collectives import collectives

bench = typer.Typer(no_args_is_help=True)


@bench.callback()
def group() -> None:
    """Measure collectives on real wires and single parts, beside what others or hardware do."""


bench.command()(collectives)
bench.command()(codec)
