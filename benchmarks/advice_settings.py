"""First choices of ``dgc-topo advise``, beside the best of the ways that were measured in the lab.

Run ``python -m benchmarks.advice_settings FILE --network NETWORK.toml`` again and again: each run
goes on where the last one stopped, and begins no setting after ``--minutes``.  In each setting
workers are first timed that exchange nothing.  From these times and the calibrated network all
ways are predicted and written down; then those that could be the best are trained in the lab: a
model of the zoo whose computing is emulated, real TCP.  A lab is `SCALE` times as slow as the
cluster that it stands for, so that workers who share its cores do not wait for each other to
compress.  ``--report`` prints what came out.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Annotated, NamedTuple

import typer
from pydantic import BaseModel, ConfigDict
from rich import box
from rich.table import Table

import dgc_topo as dt
from dgc_topo.cli.console import clear_errors, console
from dgc_topo.cli.streams import run
from dgc_topo.experiments.advice import TrainingWay
from dgc_topo.experiments.advice.verdict import choice_of
from dgc_topo.experiments.advice.ways import best_by_form
from dgc_topo.experiments.jobs import plan_jobs
from dgc_topo.experiments.scenario import parse_scenario
from dgc_topo.network.calibrated import CalibratedNetwork
from dgc_topo.network.network_files import load_calibrated
from dgc_topo.records.measurement import Measurement
from dgc_topo.records.records import RecordFile, read_records
from dgc_topo.simulation import load_workload
from dgc_topo.topology import load_topology
from dgc_topo.training.job import Job
from dgc_topo.training.launch import Event, Finished, launch
from dgc_topo.units import link_rate_from, seconds_text
from dgc_topo.workers.lab import Lab, LabSpec

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

SCALE = 5.0  #: times as slow as the cluster that a lab stands for
ROUNDS = 2  #: in which all ways of a setting take turns
STEPS = 8  #: of a training; its step time is their median
TRIAL_STEPS = 4  #: of workers alone before it, which only the first trainings need
MOST_WAYS = 5  #: that are measured in a setting
DENSITIES = (0.01, 0.001)  #: of DGC
NEAR = 1.25  #: times the fastest prediction, up to which a way could be the best
FAR = 2.0  #: times it, up to which the best way of a form is measured as well
AS_GOOD = 1.03  #: times the best measured, up to which a first choice is right

_TEXT = """
name = "advice-settings"
[train]
dataset = "emulated"
model = "{model}"
world_size = {workers}
batch_size_per_worker = 32
epochs = {epochs}
max_steps_per_epoch = {steps}
learning_rate = 0.02
overlap = {overlap}
options = {{ compute_s = {compute_s} }}
[compression]
densities = [{density!r}]
wire_dtype = "{wire_dtype}"
merge = "{merge}"
warm_up = "none"
[[topologies]]
name = "{topology}"
"""


class Setting(NamedTuple):
    """A model, and the workers and links to train it on."""

    model: str
    workers: int
    rate: str
    compute_s: float
    overlap: bool = False

    @property
    def lab_rate_bits_per_s(self) -> float:
        """Rate of the lab's links."""
        rate = link_rate_from(self.rate, "rate")
        assert rate is not None  # no setting is unshaped
        return rate / SCALE

    @property
    def label(self) -> str:
        """Text for tables."""
        when = ", while computing" if self.overlap else ""
        compute = seconds_text(self.compute_s)
        return f"{self.model}, {compute}, {self.workers} workers, {self.rate}{when}"


MODELS = {"resnet20-cifar": 0.01, "resnet56-cifar": 0.02, "resnet110-cifar": 0.03}
#: Workers, rate of links, and True if gradients are sent while computing; settings of one lab each.
LABS = (
    (4, "100 Mbit/s", False),
    (2, "500 Mbit/s", False),
    (3, "250 Mbit/s", False),
    (4, "250 Mbit/s", True),
    (6, "100 Mbit/s", False),
    (4, "50 Mbit/s", False),
    (2, "50 Mbit/s", False),
)
SETTINGS = tuple(
    Setting(model, workers, rate, compute_s, overlap)
    for workers, rate, overlap in LABS
    for model, compute_s in MODELS.items()
)


class WayRow(BaseModel):
    """One way in one setting: predicted, and measured if it could be the best."""

    model_config = ConfigDict(frozen=True)

    setting: str
    way: str
    topology: str
    density: float
    wire_dtype: str
    merge: str
    compress_s: float
    update_s: float
    is_choice: bool = False  #: rows from before December 2026 say it of none
    predicted_s: float
    low_s: float
    high_s: float
    rounds_s: tuple[float, ...] = ()

    @property
    def measured_s(self) -> float:
        """Seconds of a step in the fastest round: what else runs here only slows."""
        return min(self.rounds_s)

    @property
    def is_held(self) -> bool:
        """True if the interval holds the measured time."""
        return self.low_s <= self.measured_s <= self.high_s


@app.command()
def main(
    file: Annotated[Path, typer.Argument(help="rows (JSON lines): predicted, then measured")],
    network: Annotated[Path | None, typer.Option(help="calibrated network file")] = None,
    minutes: Annotated[float, typer.Option(help="begin no setting after so many")] = 3.0,
    most: Annotated[int, typer.Option(help="settings to measure in this run")] = len(SETTINGS),
    report: Annotated[bool, typer.Option("--report", help="only print what came out")] = False,
) -> None:
    """Predict and measure the settings that have no rows yet, or print what came out."""
    with clear_errors():
        if not report:
            if network is None:
                raise ValueError("--network: missing, expected a calibrated network file")
            _go_on(file, load_calibrated(network), minutes, most)
        _print(measured_rows(file))


def _go_on(file: Path, network: CalibratedNetwork, minutes: float, most: int) -> None:
    ends = time.monotonic() + 60 * minutes
    done = {row.setting for row in measured_rows(file)}
    missing = [each for each in SETTINGS if each.label not in done][:most]
    for _, alike in groupby(missing, key=lambda each: (each.workers, each.rate, each.overlap)):
        if time.monotonic() > ends:
            return
        file.touch()
        records = RecordFile(file)
        settings = list(alike)
        records.append(*_measure(settings, network, records))
        records.close()
        console.print(*(f"measured: {each.label}" for each in settings), sep="\n")


def measured_rows(file: Path) -> list[WayRow]:
    """Return the rows with measurements; none if there is no file."""
    rows = read_records(file, WayRow) if file.exists() else []
    return [row for row in rows if row.rounds_s]


def _measure(
    settings: Sequence[Setting], network: CalibratedNetwork, records: RecordFile
) -> list[WayRow]:
    """Return the measured rows of settings of one lab; predicted ones are written before."""
    first = settings[0]
    spec = LabSpec(
        num_hosts=first.workers, rate_bits_per_s=first.lab_rate_bits_per_s, time_scale=SCALE
    )
    with Lab(spec) as lab:
        alone = [
            _job(setting, "ring", density, "float32", "union", epochs=1)
            for setting in settings
            for density in DENSITIES
        ]
        profiles = iter(_run(alone, lab))
        rows: list[tuple[Setting, WayRow]] = []
        for setting in settings:
            predicted = _predicted(setting, network, [next(profiles) for _ in DENSITIES])
            rows += [(setting, row) for row in predicted]
        records.append(*(row for _, row in rows))
        jobs = [_job(s, r.topology, r.density, r.wire_dtype, r.merge) for s, r in rows]
        found = _run(ROUNDS * jobs, lab)
    times_s = [each.step_time_s / SCALE for each in found]
    return [
        row.model_copy(update={"rounds_s": tuple(times_s[number :: len(rows)])})
        for number, (_, row) in enumerate(rows)
    ]


def _predicted(
    setting: Setting, network: CalibratedNetwork, profiles: Sequence[Measurement]
) -> Iterator[WayRow]:
    """Yield the predictions of the ways that are to be measured.

    Args:
        setting: Setting.
        network: Calibrated network.
        profiles: Records with the times of workers that exchange nothing, for each of `DENSITIES`.
    """
    phases = [profile.crowd_phases or profile.solo_phases for profile in profiles]
    update_s = median(each.update_s for each in phases if each)
    workload = load_workload(
        setting.model, compute_s=SCALE * setting.compute_s, update_s=update_s, batch_size=32
    )
    touched = setting.workers * workload.gradient_bytes
    hosts = network.parameters.network(setting.workers, setting.lab_rate_bits_per_s, touched)
    compress_s = {d: each.compress_s for d, each in zip(DENSITIES, phases, strict=True) if each}
    ways = {
        way.label: way
        for density in DENSITIES
        for way in dt.advise(
            workload,
            setting.workers,
            network=dt.load_cluster(hosts, setting.workers),
            compress=compress_s[density],
            densities=[density],
            overlap=setting.overlap,
        ).ways
    }
    ranked = sorted(ways.values(), key=lambda way: way.step_time_s)
    choice = choice_of(ranked)
    for way in measured_ways(ranked, choice):
        yield WayRow(
            setting=setting.label,
            way=way.label,
            topology=way.topology,
            density=way.density,
            wire_dtype=way.form.wire_dtype,
            merge=way.form.merge,
            compress_s=compress_s.get(way.density, 0.0) / SCALE,
            update_s=update_s / SCALE,
            is_choice=way.label == choice.label,
            predicted_s=way.step_time_s / SCALE,
            low_s=way.low_s / SCALE,
            high_s=way.high_s / SCALE,
        )


def measured_ways(ways: Sequence[TrainingWay], choice: TrainingWay) -> list[TrainingWay]:
    """Return the ways to measure, the fastest first: the choice, those near the best, and others.

    Others are the best of each form.
    """
    usual = [way for way in ways if way.form.sends_gradients]
    near = [way for way in usual if way.step_time_s <= NEAR * usual[0].step_time_s]
    best = [
        way for way in best_by_form(usual).values() if way.step_time_s <= FAR * usual[0].step_time_s
    ]
    found = {way.label: way for way in [choice, *near[: MOST_WAYS - 2], *best, *near]}
    return sorted(list(found.values())[:MOST_WAYS], key=lambda way: way.step_time_s)


def _job(
    setting: Setting,
    topology: str,
    density: float,
    wire_dtype: str,
    merge: str,
    *,
    epochs: int = STEPS // TRIAL_STEPS,
) -> Job:
    """Return a training of `STEPS` steps; workers are timed alone for those of one epoch."""
    assert not load_topology(topology).plain_options
    scenario = parse_scenario(
        _TEXT.format(
            model=setting.model,
            workers=setting.workers,
            epochs=epochs,
            steps=STEPS // epochs,
            overlap=json.dumps(setting.overlap),
            compute_s=setting.compute_s,
            topology=topology,
            density=density,
            wire_dtype=wire_dtype,
            merge=merge,
        )
    )
    (job,) = plan_jobs(scenario)[0]
    return job


def _run(jobs: Sequence[Job], lab: Lab) -> list[Measurement]:
    """Return the records of trainings, by job."""
    found: list[Measurement] = []

    def listen(event: Event) -> None:
        if isinstance(event, Finished):
            found.append(event.measurement)

    launch(jobs, listen, lab)
    return found


def _print(rows: Sequence[WayRow]) -> None:
    head = ("setting", "first choice", "predicted", "measured", "best measured", "slower by")
    table = Table(*head, box=box.MARKDOWN)
    right, held = 0, sum(row.is_held for row in rows)
    settings = {row.setting: [r for r in rows if r.setting == row.setting] for row in rows}
    for label, ways in settings.items():
        fastest = min(ways, key=lambda row: row.predicted_s)
        first = next((row for row in ways if row.is_choice), fastest)
        best = min(ways, key=lambda row: row.measured_s)
        ratio = first.measured_s / best.measured_s
        right += ratio <= AS_GOOD
        table.add_row(
            label,
            first.way,
            seconds_text(first.predicted_s),
            seconds_text(first.measured_s),
            f"{best.way}: {seconds_text(best.measured_s)}",
            f"{ratio - 1:.1%}",
        )
    console.print(table)
    console.print(f"{right} of {len(settings)} first choices within 3 % of the best measured")
    console.print(f"{held} of {len(rows)} measured times in their 90 % intervals")


if __name__ == "__main__":
    run(app)
