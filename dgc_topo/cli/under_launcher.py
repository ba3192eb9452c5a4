"""Training under torchrun or any launcher that sets RANK, WORLD_SIZE and MASTER_ADDR."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from dgc_topo.cli.console import HELP_MARKUP, clear_errors, console, topology_from
from dgc_topo.cli.options import OneDensity, OtherWorldSize
from dgc_topo.cli.progress import ProgressBars
from dgc_topo.cli.show import print_findings
from dgc_topo.experiments.compared import compared_settings
from dgc_topo.experiments.jobs import plan_jobs
from dgc_topo.experiments.place import Place
from dgc_topo.experiments.runner import Part, collect, finish
from dgc_topo.experiments.scenario import Scenario, ScenarioError, parse_scenario
from dgc_topo.experiments.scenario.load import read_scenario
from dgc_topo.training.events import Event
from dgc_topo.training.job import Job
from dgc_topo.training.loop import JobRun
from dgc_topo.training.settings import TrainSection
from dgc_topo.workers.group import Worker, join_workers
from dgc_topo.workers.meeting import telling_others
from dgc_topo.workers.seat import seat_from

app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=HELP_MARKUP
)


@app.command()
def train(
    scenario: Annotated[Path, typer.Argument(help="scenario file (TOML)", dir_okay=False)],
    topology: Annotated[str, typer.Option(help="topology name, or the path of a .py file")],
    density: OneDensity = None,
    option: Annotated[list[str] | None, typer.Option(help="topology option, key=value")] = None,
    world_size: OtherWorldSize = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="results folder")] = None,
) -> None:
    """Train a scenario over one topology, on the processes that a launcher started."""
    with clear_errors():
        with telling_others():
            part = Part(topology_from(topology, option or []), density, world_size)
            text = read_scenario(scenario)
            wanted = part.of(parse_scenario(text, str(scenario), scenario.parent))
            settings = _settings_of(wanted, scenario)
            _check_world_size(settings.world_size, scenario)
            place = Place.of(scenario, text, wanted, output, ("train", *part.options))
            timeout = timedelta(seconds=settings.timeout_s)
            compared = compared_settings(wanted)
        with join_workers(settings.device, settings.backend, timeout, compared) as worker:
            _run(place, wanted, worker)


def _check_world_size(wanted: int, path: Path) -> None:
    started = seat_from().world_size
    if started != wanted:
        raise ScenarioError(
            f"{path}: train.world_size {wanted}, but the launcher started {started} processes "
            f"(WORLD_SIZE); expected as many, or '--world-size {started}'"
        )


def _settings_of(scenario: Scenario, path: Path) -> TrainSection:
    """Return what to train, if a launcher's processes can."""
    if scenario.train is None:
        raise ScenarioError(f"{path}: has no [train] section, there is nothing to train")
    if scenario.lab is not None:
        raise ScenarioError(
            f"{path}: has a [lab], which needs no launcher; use 'dgc-topo train' or "
            "'dgc-topo compare'"
        )
    if scenario.ladder is not None:
        raise ScenarioError(
            f"{path}: a [ladder] has world sizes of its own, and a launcher decides them; use "
            "'dgc-topo compare'"
        )
    if scenario.train.workers == "virtual":
        raise ScenarioError(
            f"{path}: train.workers = 'virtual': one process runs all, expected 'processes' under "
            "a launcher; or use 'dgc-topo compare'"
        )
    return scenario.train


def _run(place: Place, scenario: Scenario, worker: Worker) -> None:
    jobs, left_out = plan_jobs(scenario)

    def run_all(jobs: list[Job], listen: Callable[[Event], None]) -> None:
        for number, job in enumerate(jobs):
            JobRun(job, number, worker, listen).run()

    if worker.rank != 0:
        run_all(jobs, lambda _: None)
        return
    with ProgressBars(console) as bars:
        folder = place.open(bars.moved)
        bars.plan(jobs, left_out)
        with folder.or_as_it_was(bars.moved):
            measured = collect(jobs, run_all, folder, bars)
        finish(scenario, measured, folder, bars)
    print_findings(folder)
