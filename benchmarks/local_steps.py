"""Utilisation with local steps on emulated links: a grid that is predicted first, then measured.

Run ``python -m benchmarks.local_steps`` (``--help`` lists its options).  A calibration sees
point-to-point probes, and a profile sees workers that compute and compress.  From these alone every
pair of a rate and of H is predicted and written down; then each is trained in the lab: a model of
the zoo whose computing is emulated, 8 hosts, real TCP.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from dgc_topo.cli.console import clear_errors, console
from dgc_topo.experiments.calibration.calibrate import calibrate_lab
from dgc_topo.experiments.jobs import plan_jobs
from dgc_topo.experiments.scenario import Scenario, parse_scenario
from dgc_topo.experiments.training_cases import cases_of_runs
from dgc_topo.network.calibrated import CalibratedNetwork
from dgc_topo.network.cluster import load_cluster
from dgc_topo.network.network_files import load_calibrated
from dgc_topo.records.measurement import Measurement
from dgc_topo.simulation.training.simulation import average_steps
from dgc_topo.training.launch import Event, Finished, launch
from dgc_topo.units import link_rate_from, seconds_text
from dgc_topo.workers.lab import Lab

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

HOSTS = 8
RATES = ("50 Mbit/s", "100 Mbit/s", "200 Mbit/s")
EVERY = (1, 10, 50, 200)
DENSITIES = (1.0, 1 / 64)
_LEAST_STEPS, _ROUNDS = 8, 2  # of a measured training: steps, and rounds of H steps

_TEXT = """
name = "local-steps"
topologies = ["ring"]
averaging = "local-sgd:every={every}"
[train]
dataset = "emulated"
model = "{model}"
world_size = {hosts}
batch_size_per_worker = 32
epochs = 1
max_steps_per_epoch = {steps}
learning_rate = 0.02
[lab]
rate = "{rate}"
[compression]
densities = [{density!r}]
warm_up = "none"
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One pair of a rate and of H: predicted, and then measured.

    Attributes:
        rate: Of every link.
        every: H.
        density: Fraction of a change that is sent.
        predicted_s: Seconds per step.
        predicted_utilisation: Share of the workers' time in which they compute or update.
        measured_s: Seconds per step.
        measured_utilisation: As predicted.
    """

    rate: str
    every: int
    density: float
    predicted_s: float
    predicted_utilisation: float
    measured_s: float | None = None
    measured_utilisation: float | None = None

    @property
    def error(self) -> float:
        """Predicted over measured seconds, minus 1."""
        assert self.measured_s is not None
        return self.predicted_s / self.measured_s - 1


@app.command()
def main(
    output: Annotated[Path, typer.Option(help="file of the rows (JSON lines)")],
    network: Annotated[
        str | None, typer.Option(help="network file; calibrated first if left out")
    ] = None,
    model: Annotated[str, typer.Option(help="model of the zoo")] = "resnet110-cifar",
    rate: Annotated[list[str] | None, typer.Option(help="of every link; several")] = None,
    every: Annotated[list[int] | None, typer.Option(help="H; several", min=1)] = None,
) -> None:
    """Predict a grid of rates and local steps, then measure it in the lab."""
    with clear_errors():
        rates = tuple(rate or RATES)
        if output.exists():
            raise ValueError(f"--output: {output} is there, expected a new file")
        calibrated = _calibrated(network, rates)
        rows = list(_predicted(calibrated, model, rates, tuple(every or EVERY)))
        _write(output.with_suffix(".predicted.jsonl"), rows)
        rows = [_measured(row, model) for row in rows]
        _write(output, rows)
        console.print(_table(rows))


def _calibrated(network: str | None, rates: Sequence[str]) -> CalibratedNetwork:
    if network is not None:
        return load_calibrated(network)
    ends = sorted({link_rate_from(each, "--rate") or 0.0 for each in rates})
    return calibrate_lab(sorted({ends[0], ends[-1]}), HOSTS)


def _scenario(model: str, rate: str, every: int, density: float) -> Scenario:
    steps = max(_ROUNDS * every, _LEAST_STEPS)
    return parse_scenario(
        _TEXT.format(every=every, model=model, hosts=HOSTS, steps=steps, rate=rate, density=density)
    )


def _run(scenario: Scenario) -> Measurement:
    """Return the record of a scenario's one training, in a lab of its own."""
    found: list[Measurement] = []

    def listen(event: Event) -> None:
        if isinstance(event, Finished):
            found.append(event.measurement)

    assert scenario.lab is not None
    with Lab(scenario.lab.spec(HOSTS)) as lab:
        launch(plan_jobs(scenario)[0], listen, lab)
    return found[-1]


def _predicted(
    network: CalibratedNetwork, model: str, rates: Sequence[str], many: Sequence[int]
) -> Iterator[Row]:
    """Yield the predicted rows, from one profile per density: of workers that exchange nothing."""
    for density in DENSITIES:
        profiled = _run(_scenario(model, rates[0], 1, density))
        phases = profiled.crowd_phases or profiled.solo_phases
        (case,) = cases_of_runs([profiled.model_copy(update={"solo_phases": phases})])
        for rate in rates:
            size = HOSTS * profiled.gradient_bytes
            hosts = network.parameters.network(HOSTS, link_rate_from(rate, "--rate"), size)
            cluster = load_cluster(hosts, HOSTS)
            for every in many:
                step = replace(case.step, every=every)
                found = average_steps(step, case.topology, cluster, density=density)
                yield Row(rate, every, density, found.step_time_s, found.utilisation)


def _measured(row: Row, model: str) -> Row:
    record = _run(_scenario(model, row.rate, row.every, row.density))
    busy_s = record.phases.compute_s + record.phases.update_s
    return replace(
        row,
        measured_s=record.step_time_s,
        measured_utilisation=busy_s / record.step_time_s,
    )


def _write(path: Path, rows: Sequence[Row]) -> None:
    path.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))


def _table(rows: Sequence[Row]) -> Table:
    table = Table(
        "rate", "density", "H", "predicted", "measured", "error", "utilisation, predicted, measured"
    )
    for row in rows:
        assert row.measured_s is not None
        assert row.measured_utilisation is not None
        table.add_row(
            row.rate,
            f"{row.density:.3g}",
            str(row.every),
            seconds_text(row.predicted_s),
            seconds_text(row.measured_s),
            f"{row.error:+.1%}",
            f"{row.predicted_utilisation:.1%}, {row.measured_utilisation:.1%}",
        )
    return table


if __name__ == "__main__":
    app()
