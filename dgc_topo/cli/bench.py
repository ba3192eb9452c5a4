"""`dgc-topo bench`: measurements, each a module of its own."""

from __future__ import annotations

import typer

from dgc_topo.cli.bench_codec import codec
from dgc_topo.cli.bench_collectives import collectives
from dgc_topo.cli.bench_training import training
from dgc_topo.cli.console import HELP_MARKUP

bench = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=HELP_MARKUP,
    help="Measure collectives, training and single parts, beside what others or the hardware do.",
)
bench.command()(codec)
bench.command()(collectives)
bench.command()(training)
