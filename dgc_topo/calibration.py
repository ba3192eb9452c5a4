"""Old name of ``python -m dgc_topo calibrate`` under a launcher, for one release."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dgc_topo.cli.console import HELP_MARKUP, clear_errors
from dgc_topo.cli.outputs import warn_of_old_command
from dgc_topo.cli.streams import run
from dgc_topo.cli.under_launcher import calibrate_as_rank

app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=HELP_MARKUP
)


@app.command()
def main(
    file: Annotated[Path, typer.Argument(help="network file to write (TOML)")],
    rate: Annotated[str | None, typer.Argument(help="nominal: 1Gbit/s, or unshaped")] = None,
    timeout_s: Annotated[
        float, typer.Option(min=1, help="after which a silent rank is an error; 64 MB have to pass")
    ] = 120,
) -> None:
    """Run the probes on all ranks of a launcher; see 'dgc-topo calibrate'."""
    with clear_errors():
        calibrate_as_rank(file, rate, timeout_s)


if __name__ == "__main__":
    warn_of_old_command(
        "-m dgc_topo.calibration FILE RATE", "-m dgc_topo calibrate --output FILE --rate RATE"
    )
    run(app)
