"""Utilisation with local steps on emulated links: a grid that is predicted first, then measured.

Run ``python -m benchmarks.local_steps --output grid.jsonl`` (``--help`` lists its options).  A
calibration sees point-to-point probes, and a profile sees workers that compute and compress.  From
these alone every pair of a rate and of H is predicted, and written to ``grid.predicted.jsonl`` with
the time; then each is trained in the lab: a model of the zoo whose computing is emulated, 8 hosts,
real TCP.  A command that was interrupted goes on when it is given again; predictions that are
written are kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from dgc_topo.cli.console import clear_errors, console
from dgc_topo.experiments.calibration.calibrate import calibrate_lab
from dgc_topo.experiments.jobs import plan_jobs
from dgc_topo.experiments.scenario import Scenario, parse_scenario
from dgc_topo.experiments.training_cases import cases_of_runs
from dgc_topo.files import write_whole
from dgc_topo.network import load_cluster
from dgc_topo.network.calibrated import CalibratedNetwork
from dgc_topo.network.network_files import load_calibrated
from dgc_topo.records.measurement import Measurement
from dgc_topo.simulation.training.periods import average_steps
from dgc_topo.training.launch import Event, Finished, launch
from dgc_topo.units import link_rate_from, seconds_text
from dgc_topo.workers.lab import Lab

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

HOSTS = 8
RATES = ("50 Mbit/s", "100 Mbit/s", "200 Mbit/s")
CALIBRATED = ("100 Mbit/s", "200 Mbit/s")
EVERY = (1, 10, 50, 200)
DENSITIES = (1.0, 1 / 64)
_CALIBRATION_ROUNDS = 3
_LEAST_STEPS, _LONG = 8, 100  # of a measured training; so many steps need one exchange only

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
class Prediction:
    """Prediction of one pair of a rate and of H.

    Attributes:
        rate: Of every link.
        every: H.
        density: Fraction of a change that is sent.
        predicted_s: Seconds per step.
        predicted_utilisation: Share of the workers' time in which they compute or update.
        predicted_at: Date and time.
    """

    rate: str
    every: int
    density: float
    predicted_s: float
    predicted_utilisation: float
    predicted_at: str


@dataclass(frozen=True, slots=True)
class Row(Prediction):
    """A prediction, and what was measured later.

    Attributes:
        measured_s: Seconds per step.
        measured_utilisation: As predicted.
        measured_at: Date and time at the end.
        load: Load average over a minute, as it began.
    """

    measured_s: float
    measured_utilisation: float
    measured_at: str
    load: float

    @property
    def error(self) -> float:
        """Predicted over measured seconds, minus 1."""
        return self.predicted_s / self.measured_s - 1


@app.command()
def main(
    output: Annotated[Path, typer.Option(help="file of the rows (JSON lines), gone on with")],
    network: Annotated[
        Path, typer.Option(help="network file; calibrated and written if it is not there")
    ],
    model: Annotated[str, typer.Option(help="model of the zoo")] = "resnet110-cifar",
    rate: Annotated[list[str] | None, typer.Option(help="of every link; several")] = None,
    every: Annotated[list[int] | None, typer.Option(help="H; several", min=1)] = None,
) -> None:
    """Predict a grid of rates and local steps, then measure it in the lab."""
    with clear_errors():
        rates = tuple(rate or RATES)
        if not network.exists():
            seen = [link_rate_from(each, "--rate") for each in CALIBRATED]
            calibrate_lab(seen, HOSTS, rounds=_CALIBRATION_ROUNDS).save(network)
        predicted = output.with_suffix(".predicted.jsonl")
        if not predicted.exists():
            found = list(_predicted(load_calibrated(network), model, rates, every or EVERY))
            write_whole(predicted, "".join(json.dumps(asdict(each)) + "\n" for each in found))
        for each in rates:
            _measure([row for row in _left(predicted, output) if row.rate == each], model, output)
        console.print(_table([Row(**row) for row in _lines(output)]))


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def _left(predicted: Path, measured: Path) -> list[Prediction]:
    """Return the predictions that were not measured yet."""
    keys = ("rate", "every", "density")
    done = {tuple(row[key] for key in keys) for row in _lines(measured)}
    wanted = [row for row in _lines(predicted) if tuple(row[key] for key in keys) not in done]
    return [Prediction(**row) for row in wanted]


def _scenario(model: str, rate: str, every: int, density: float) -> Scenario:
    steps = every * (1 if every >= _LONG else max(2, -(-_LEAST_STEPS // every)))  # whole rounds
    return parse_scenario(
        _TEXT.format(every=every, model=model, hosts=HOSTS, steps=steps, rate=rate, density=density)
    )


def _run(scenarios: Sequence[Scenario], listen: Callable[[Measurement], None]) -> None:
    """Run the one training of each scenario, in one lab, and tell of every record."""
    section = scenarios[0].lab
    assert section is not None

    def hear(event: Event) -> None:
        if isinstance(event, Finished):
            listen(event.measurement)

    with Lab(section.spec(HOSTS)) as lab:
        launch([plan_jobs(scenario)[0][0] for scenario in scenarios], hear, lab)


def _predicted(
    network: CalibratedNetwork, model: str, rates: Sequence[str], many: Sequence[int]
) -> Iterator[Prediction]:
    """Yield the predicted rows, from one profile per density: of workers that exchange nothing."""
    records: list[Measurement] = []
    _run([_scenario(model, rates[-1], 1, density) for density in DENSITIES], records.append)
    for density, profiled in zip(DENSITIES, records, strict=True):
        phases = profiled.crowd_phases or profiled.solo_phases
        (case,) = cases_of_runs([profiled.model_copy(update={"solo_phases": phases})])
        for rate in rates:
            size = HOSTS * profiled.gradient_bytes
            hosts = network.parameters.network(HOSTS, link_rate_from(rate, "--rate"), size)
            cluster = load_cluster(hosts, HOSTS)
            for every in many:
                step = replace(case.step, every=every)
                found = average_steps(step, case.topology, cluster, density=density)
                now = _now()
                yield Prediction(rate, every, density, found.step_time_s, found.utilisation, now)


def _measure(predictions: Sequence[Prediction], model: str, output: Path) -> None:
    """Measure predictions of one rate in one lab, and append the rows one by one."""
    left = list(predictions)

    def keep(record: Measurement) -> None:
        busy_s = record.phases.compute_s + record.phases.update_s
        row = Row(
            **asdict(left.pop(0)),
            measured_s=record.step_time_s,
            measured_utilisation=busy_s / record.step_time_s,
            measured_at=_now(),
            load=record.load or 0.0,
        )
        with output.open("a") as file:
            file.write(json.dumps(asdict(row)) + "\n")

    if left:
        _run([_scenario(model, each.rate, each.every, each.density) for each in left], keep)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _table(rows: Sequence[Row]) -> Table:
    table = Table(
        "rate", "density", "H", "predicted", "measured", "error", "utilisation, predicted, measured"
    )
    for row in rows:
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
