"""Calibrating the machines on which torchrun, or any other launcher, started the processes."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from dgc_topo.cli.console import HELP_MARKUP, clear_errors, console
from dgc_topo.cli.outputs import check_file
from dgc_topo.experiments.calibration.calibrate import ROUNDS, fit_network
from dgc_topo.experiments.calibration.measure import measured, request, rounds_of
from dgc_topo.experiments.calibration.probes import probes
from dgc_topo.experiments.calibration.runs import Timed, time_cases
from dgc_topo.network.calibrated import CalibratedNetwork, Parameters
from dgc_topo.units import link_rate_from
from dgc_topo.workers.group import join_workers

_TIMEOUT_S = 120.0

app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=HELP_MARKUP
)


@app.command()
def main(
    file: Annotated[Path, typer.Argument(help="network file to write (TOML)")],
    rate: Annotated[str | None, typer.Argument(help="nominal: 1Gbit/s, or unshaped")] = None,
    timeout_s: Annotated[
        float, typer.Option(min=1, help="after which a silent rank is an error; 64 MB have to pass")
    ] = _TIMEOUT_S,
) -> None:
    """Run the probes on all ranks of a launcher, one to a host; rank 0 writes the network file."""
    with clear_errors():
        nominal = None if rate is None else link_rate_from(rate, "rate")
        _calibrate(file, nominal, timedelta(seconds=timeout_s))


def _calibrate(file: Path, rate: float | None, timeout: timedelta) -> None:
    asked = {"RATE": rate, "--timeout-s": timeout.total_seconds()}
    with join_workers("cpu", "gloo", timeout, asked) as worker:
        if worker.rank == 0:  # the others may be on machines without such a folder
            check_file("calibration:", file)
            CalibratedNetwork.check_place(file)
        cases = probes(worker.world_size, rate)
        timed = time_cases(worker, request(cases, ROUNDS))
        per_rank = worker.gather(list[Timed], timed["timed"], "collecting the probes")
    if worker.rank == 0:
        rows = [
            measured(case, rounds, 1)
            for case, rounds in zip(cases, rounds_of(cases, per_rank), strict=True)
        ]
        network = fit_network(file.stem, [(rate, rows)], Parameters(), rate)
        earlier = network.save(file)
        if earlier is not None:
            console.print(f"the earlier network is now {earlier}", soft_wrap=True)
