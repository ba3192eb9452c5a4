"""Commands that measure: calibrate a network, and validate predictions against measured runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dgc_topo.cli.console import clear_errors, console, errors, print_json
from dgc_topo.cli.options import ScenarioFile, each_once, refuse_options
from dgc_topo.cli.outputs import check_file, check_folder, moved_text
from dgc_topo.cli.progress import counting
from dgc_topo.workers.seat import was_launched

if TYPE_CHECKING:
    from dgc_topo.experiments.scenario import Scenario
    from dgc_topo.experiments.validation.records import ValidationFolder, ValidationRow
    from dgc_topo.network.calibrated import CalibratedNetwork

Rates = Annotated[
    list[str] | None,
    typer.Option("--rate", help="of the lab's links, such as 100Mbit/s, or unshaped; repeatable"),
]


def calibrate(
    context: typer.Context,
    output: Annotated[Path, typer.Option("--output", "-o", help="network file to write")],
    rate: Rates = None,
    hosts: Annotated[int, typer.Option(help="hosts of the lab")] = 8,
    rounds: Annotated[int, typer.Option(help="rounds behind each median", min=3)] = 5,
    timeout_s: Annotated[
        float,
        typer.Option(
            help="under a launcher: after which a silent rank is an error; 64 MB have to pass",
            min=1,
        ),
    ] = 120,
    again: Annotated[
        Path | None,
        typer.Option(help="network file whose probes are to be fitted anew, nothing is measured"),
    ] = None,
) -> None:
    """Measure point-to-point messages of a lab or a cluster, and write a network file.

    Under torchrun, srun or mpirun, with one process per host, it measures between those hosts.

    For example:

    - dgc-topo calibrate -o lab.toml --rate 100Mbit/s
    - torchrun ... -m dgc_topo calibrate -o cluster.toml --rate 1Gbit/s
    - dgc-topo calibrate -o lab-new.toml --again lab.toml
    """
    from dgc_topo.experiments.calibration.calibrate import calibrate_lab, num_probes
    from dgc_topo.network.calibrated import CalibratedNetwork
    from dgc_topo.units import link_rate_from

    with clear_errors():
        if again is not None:
            why = "is for measuring; --again fits what a file holds"
            refuse_options(context, lambda name: name not in {"output", "again"}, why)
            _fit_again(again, output)
            return
        if was_launched():
            from dgc_topo.cli.under_launcher import calibrate_as_rank

            why = "is for a lab on this machine; a launcher's processes are the hosts"
            refuse_options(context, lambda name: name in {"hosts", "rounds"}, why)
            if len(rate or ()) > 1:
                raise ValueError("--rate: given twice, expected the one of the cluster's links")
            calibrate_as_rank(output, rate[0] if rate else None, timeout_s)
            return
        why = "is for a launcher's processes, such as torchrun's"
        refuse_options(context, lambda name: name == "timeout_s", why)
        check_file("--output", output)
        CalibratedNetwork.check_place(output)
        given = rate or ["100Mbit/s", "200Mbit/s", "unshaped"]
        rates = [link_rate_from(text, "--rate") for text in each_once("--rate", given)]
        with counting(errors, "calibrating", num_probes(hosts, rates)) as advance:
            network = calibrate_lab(rates, hosts, name=output.stem, rounds=rounds, advance=advance)
        _save(network, output)


def _fit_again(file: Path, output: Path) -> None:
    """Fit the probes of a network file by the model of today, and write another file."""
    from dgc_topo.experiments.calibration.again import fit_again
    from dgc_topo.network.calibrated import CalibratedNetwork
    from dgc_topo.network.network_files import load_calibrated

    check_file("--output", output)
    CalibratedNetwork.check_place(output)
    _save(fit_again(load_calibrated(str(file))), output)


def _save(network: CalibratedNetwork, output: Path) -> None:
    """Write a network file, and say how well it fits."""
    earlier = network.save(output)
    console.print(
        f"fit of {len(network.probes)} probes: median error "
        f"{100 * network.median_fit_error:.1f} %, worst {100 * network.worst_fit_error:.1f} %"
    )
    console.print(f"network: {output}", soft_wrap=True)
    if earlier is not None:
        console.print(f"the earlier one is now {earlier}", soft_wrap=True)


def validate(
    scenario: ScenarioFile,
    network: Annotated[
        str | None, typer.Option(help="network file; calibrated first if left out")
    ] = None,
    measured: Annotated[
        Path | None,
        typer.Option(help="folder of a validation to predict anew with --network, not to measure"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="folder (default: results/NAME)")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the rows as JSON")] = False,
) -> None:
    """Run the cases of a scenario, predict them from a calibration alone, and report the errors.

    The scenario has a section [validate].  The folder of the results gets a report.html: predicted
    against measured times, with 90 % intervals.

    For example:

    - dgc-topo validate validate-1gbe-scaled --network lab.toml
    - dgc-topo validate mine.toml --measured results/mine --network better.toml
    """
    from dgc_topo.cli.show import print_rows
    from dgc_topo.experiments.scenario import load_scenario
    from dgc_topo.network.network_files import load_calibrated
    from dgc_topo.records.room import REPORT

    with clear_errors():
        check_folder("--output", output)
        loaded = load_scenario(scenario)
        folder = output or Path("results") / loaded.name
        open_folder = partial(_open_folder, folder, scenario)
        if measured is None:
            rows = _measure(loaded, network, open_folder)
        elif network is None:
            raise ValueError("--measured: expected --network, what is to predict its rows")
        else:
            calibrated = load_calibrated(network)
            rows = _predict_again(loaded, measured, calibrated, open_folder)
        if as_json:
            values = [row.model_dump(mode="json") | {"error": row.error} for row in rows]
            print_json(values)
            return
        print_rows(rows)
        console.print(f"folder: {folder}", soft_wrap=True)
        console.print(f"report: {folder / REPORT}", soft_wrap=True)


def _print_moved(folder: Path, aside: Path) -> None:
    """Say on standard error where earlier results were moved; standard output may be JSON."""
    errors.print(moved_text(folder, aside), soft_wrap=True)


def _open_folder(path: Path, scenario: Path) -> ValidationFolder:
    """Return an empty folder for a validation; an earlier one is renamed."""
    from dgc_topo.experiments.validation.records import ValidationFolder

    made = ValidationFolder(path, scenario)
    if made.aside is not None:
        _print_moved(path, made.aside)
    return made


def _measure(
    scenario: Scenario, network: str | None, open_folder: Callable[[], ValidationFolder]
) -> list[ValidationRow]:
    """Calibrate if no network file is given, measure, and write the results folder."""
    from dgc_topo.experiments.calibration.calibrate import calibrate_lab, num_probes
    from dgc_topo.experiments.validation.collectives import cases_of, section_of, validate
    from dgc_topo.experiments.validation.training import num_trainings, validate_training
    from dgc_topo.network.network_files import load_calibrated
    from dgc_topo.report.validation import write_validation

    section = section_of(scenario)
    num_cases = sum(len(cases) for cases in cases_of(scenario).values()) + num_trainings(scenario)
    if not num_cases:
        raise ValueError(
            f"scenario {scenario.name}: nothing is left to measure: gossip averages whole "
            "parameters, expected dense_bytes as well, or another topology"
        )
    # Read first: the file may be in a folder that is about to be renamed.
    calibrated = None if network is None else load_calibrated(network)
    if calibrated is not None:
        _note_another_machine(network, calibrated)
    folder = open_folder()
    with folder.restored_on_error(_print_moved):
        if calibrated is None:
            rates = section.calibrate_rates_bits_per_s
            total = num_probes(section.num_hosts, rates)
            with counting(errors, "calibrating", total) as advance:
                calibrated = calibrate_lab(
                    rates, section.num_hosts, name=scenario.name, advance=advance
                )
        folder.keep_network(calibrated)
    with counting(errors, "validating", num_cases) as advance:
        rows = chain(
            validate(scenario, calibrated, advance),
            validate_training(scenario, calibrated, folder.keep_training, advance),
        )
        return write_validation(folder, rows)


def _note_another_machine(file: str | None, network: CalibratedNetwork) -> None:
    """Say if the machine that was calibrated is not the one whose processors will be measured."""
    from dgc_topo.records.environment import describe_environment

    there, here = (
        text.partition(";")[0] for text in (network.machine, str(describe_environment()))
    )
    if there != here:
        errors.print(
            f"note: {file} was calibrated on {there}. This machine is {here}: predictions are for "
            "that one, measurements of this one.",
            soft_wrap=True,
            markup=False,
        )


def _predict_again(
    scenario: Scenario,
    measured: Path,
    network: CalibratedNetwork,
    open_folder: Callable[[], ValidationFolder],
) -> list[ValidationRow]:
    """Predict the measurements of an earlier validation again, and write the results folder."""
    from dgc_topo.experiments.validation.collectives import predict_again
    from dgc_topo.experiments.validation.records import COLLECTIVES, load_rows, load_trainings
    from dgc_topo.experiments.validation.training import predict_trainings
    from dgc_topo.report.validation import write_validation

    before = load_rows(measured)
    trainings = load_trainings(measured, before)
    collectives = [row for row in before if row.group == COLLECTIVES]
    rows = [
        *predict_again(scenario, network, collectives),
        *predict_trainings(scenario, network, trainings),
    ]
    folder = open_folder()
    with folder.restored_on_error(_print_moved):
        folder.keep_network(network)
        for training in trainings:
            folder.keep_training(training)
        return write_validation(folder, rows)
