"""Commands run as one rank under torchrun or any launcher that sets RANK and WORLD_SIZE."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from dgc_topo.cli.console import console, errors
from dgc_topo.cli.outputs import check_file
from dgc_topo.cli.progress import ProgressBars
from dgc_topo.cli.show import print_findings
from dgc_topo.experiments.advice.sources import CostedWork
from dgc_topo.experiments.calibration.calibrate import ROUNDS, fit_network
from dgc_topo.experiments.calibration.cases import probes
from dgc_topo.experiments.calibration.measure import measured, request, rounds_of
from dgc_topo.experiments.calibration.probing import ProbedNetwork, probe
from dgc_topo.experiments.calibration.runs import Timed, time_cases
from dgc_topo.experiments.continuation import Start, in_order, jobs_beside, start_of
from dgc_topo.experiments.jobs import Part, check_trainings, compared_settings, plan_jobs
from dgc_topo.experiments.runner import Place, collect, finish
from dgc_topo.experiments.scenario import Scenario, ScenarioError, parse_scenario
from dgc_topo.experiments.scenario.load import read_scenario
from dgc_topo.network.calibrated import CalibratedNetwork, Parameters
from dgc_topo.training.checkpoints.keeping import Keeping
from dgc_topo.training.job import Job
from dgc_topo.training.launch import Event, Finished
from dgc_topo.training.loop import TrainingRun
from dgc_topo.training.settings import TrainSection
from dgc_topo.training.world import ProcessWorld
from dgc_topo.units import link_rate_from
from dgc_topo.workers.group import Worker
from dgc_topo.workers.joining import join_workers
from dgc_topo.workers.meeting import announcing_failure
from dgc_topo.workers.seat import seat_from


def train_as_rank(
    scenario: Path, get_part: Callable[[], Part], output: Path | None, *, resume: bool
) -> None:
    """Train one part of a scenario as one rank of several; rank 0 keeps and prints the results.

    Args:
        scenario: Scenario file.
        get_part: Function that returns the part; if it raises, the other ranks get the error too.
        output: Results folder, if one is given.
        resume: True to go on from the newest checkpoint in there, if there is one.

    Raises:
        ValueError: if the scenario, the part or the launcher's variables are invalid.
        RuntimeError: if a rank is lost.
    """
    with announcing_failure():
        part = get_part()
        text = read_scenario(scenario)
        whole = parse_scenario(text, str(scenario), scenario.parent)
        wanted = part.of(whole)
        settings = _settings_of(wanted, scenario)
        _check_world_size(settings.world_size, scenario)
        place = Place(scenario, text, wanted, output, ("train", *part.options))
        timeout = timedelta(seconds=settings.timeout_s)
        compared = compared_settings(wanted) | {"--resume": resume}
        jobs, left_out = plan_jobs(wanted)
        check_trainings(str(scenario), jobs, seat=seat_from())
        beside = jobs_beside(whole, jobs)
        start = start_of(place.folder, wanted, jobs, wanted=resume, insists=resume, beside=beside)
    with join_workers(settings.device, settings.backend, timeout, compared) as worker:
        _run(place, jobs, start.with_left_out(left_out), worker)


def _check_world_size(wanted: int, path: Path) -> None:
    started = seat_from().world_size
    if started != wanted:
        raise ScenarioError(
            f"{path}: train.world_size {wanted}, but the launcher started {started} processes "
            f"(WORLD_SIZE); expected as many, or '--world-size {started}'"
        )


def _settings_of(scenario: Scenario, path: Path) -> TrainSection:
    """Return the ``[train]`` section, if the processes of a launcher can train it."""
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


def _run(place: Place, jobs: list[Job], start: Start, worker: Worker) -> None:
    # The folder of rank 0 counts: others may have none.
    missing = worker.gather(list[str], [job.key for job in start.missing], "beginning")[0]
    todo = [job for job in jobs if job.key in missing]
    resume = worker.gather(bool, start.keep is not None, "beginning")[0]
    keeping = Keeping(folder=place.folder.absolute(), resume=resume)

    def run_all(jobs: list[Job], listen: Callable[[Event], None]) -> None:
        def listen_after_restarts(event: Event) -> None:
            restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
            listen(event.after(restarts, None) if isinstance(event, Finished) else event)

        for number, job in enumerate(jobs):
            TrainingRun(job, number, ProcessWorld(worker), listen_after_restarts, keeping).run()

    if worker.rank != 0:
        run_all(todo, lambda _: None)
        return
    with ProgressBars(console) as bars:
        folder = place.open(bars.moved, start.keep)
        bars.plan(todo, list(start.notes))
        with folder.restored_on_error(bars.moved):
            collect(todo, run_all, folder, bars, keeping)
        if not start.is_over:
            finish(place.scenario, in_order(folder, jobs), folder, bars, start.beside)
    print_findings(folder)


def probe_as_rank(
    file: Path, timeout_s: float, get_work: Callable[[], CostedWork]
) -> tuple[ProbedNetwork, CostedWork] | tuple[None, None]:
    """Probe the network between the ranks, one per machine; rank 0 writes the network file.

    Args:
        file: Network file (TOML).
        timeout_s: Time after which a silent rank is an error.
        get_work: Function that returns the work to advise on; rank 0 calls it before the ranks
            meet, so that it has all cores, and if it raises, the others get the error too.

    Returns:
        Findings and work on rank 0; nothing on the others.

    Raises:
        ValueError: if the file or the launcher's variables are invalid, or there is one rank.
        RuntimeError: if a rank is lost.
    """
    work = None
    with announcing_failure():
        if seat_from().rank == 0:  # the folder may not exist on the other ranks' machines
            check_file("--probe", file)
            CalibratedNetwork.check_place(file)
            work = get_work()
    asked = {"--timeout-s": timeout_s}
    with join_workers("cpu", "gloo", timedelta(seconds=timeout_s), asked) as worker:
        found = probe(worker, file.stem)
    if found is None or work is None:
        return None, None
    earlier = found.network.save(file)
    if earlier is not None:
        errors.print(f"the earlier network is now {earlier}", soft_wrap=True)
    return found, work


def calibrate_as_rank(file: Path, rate: str | None, timeout_s: float) -> None:
    """Run the probes as one rank of several, one per host; rank 0 writes the network file.

    Args:
        file: Network file (TOML).
        rate: Nominal rate of the links, such as 1Gbit/s, or unshaped; None if it is not known.
        timeout_s: Time after which a silent rank is an error.

    Raises:
        ValueError: if the rate, the file or the launcher's variables are invalid.
        RuntimeError: if a rank is lost.
    """
    nominal = None if rate is None else link_rate_from(rate, "--rate")
    asked = {"--rate": nominal, "--timeout-s": timeout_s}
    with join_workers("cpu", "gloo", timedelta(seconds=timeout_s), asked) as worker:
        if worker.rank == 0:  # the folder may not exist on the other ranks' machines
            check_file("--output", file)
            CalibratedNetwork.check_place(file)
        cases = probes(worker.world_size, nominal)
        timed = time_cases(worker, request(cases, ROUNDS))
        per_rank = worker.gather(list[Timed], timed["timed"], "collecting the probes")
    if worker.rank == 0:
        rows = [
            measured(case, rounds, 1)
            for case, rounds in zip(cases, rounds_of(cases, per_rank), strict=True)
        ]
        network = fit_network(file.stem, [(nominal, rows)], Parameters(), nominal)
        earlier = network.save(file)
        if earlier is not None:
            console.print(f"the earlier network is now {earlier}", soft_wrap=True)
