"""Definition of every ``dgc-topo`` command; each is a thin layer over the library."""

from __future__ import annotations

import signal
from importlib.metadata import version
from typing import Annotated, NoReturn

import typer

from dgc_topo.cli import lists
from dgc_topo.cli.advise import advise
from dgc_topo.cli.bench import bench
from dgc_topo.cli.console import HELP_MARKUP, print_raw
from dgc_topo.cli.downloads import data
from dgc_topo.cli.lab import lab
from dgc_topo.cli.results_folders import report, results
from dgc_topo.cli.schedules import show, verify
from dgc_topo.cli.simulate import simulate
from dgc_topo.cli.sizes import sizes
from dgc_topo.cli.step import step
from dgc_topo.cli.streams import run
from dgc_topo.cli.sweeps import sweep
from dgc_topo.cli.training_runs import compare, train
from dgc_topo.cli.validate import calibrate, validate
from dgc_topo.liveness import end_with_launcher

app = typer.Typer(
    name="dgc-topo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=HELP_MARKUP,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(*, wanted: bool) -> None:
    if wanted:
        print_raw(f"dgc-topo {version('dgc-topo')}\n")
        raise typer.Exit


@app.callback()
def root(
    *,
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Train neural networks on ordinary networks over any topology, and predict how it scales.

    For example:

    - dgc-topo compare quickstart
    - dgc-topo step resnet50 -n 16 --density 0.001
    - dgc-topo verify ring -n 8
    - dgc-topo scenarios
    """


_RUNS = compare, advise, simulate, step, sweep, calibrate, validate, train, verify, show, sizes
_LISTS = lists.topologies, lists.networks, lists.scenarios, lists.schema, lists.env
for command in (*_RUNS, *_LISTS, data, report):
    app.command()(command)
app.add_typer(lab, name="lab")
app.add_typer(bench, name="bench")
app.add_typer(results, name="results")


def main() -> NoReturn:
    """Run the command line."""
    # Imported before it is needed: a second signal may come while the first one is handled.
    from dgc_topo.python_files import AskedToEnd

    def end(number: int, _: object) -> NoReturn:
        raise AskedToEnd(128 + number)

    end_with_launcher()
    # SIGTERM must clean up (workers, temporary folders) just as Ctrl-C does.
    signal.signal(signal.SIGTERM, end)
    run(app)
