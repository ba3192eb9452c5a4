"""All commands; each is a thin layer over the library."""

from __future__ import annotations

import math
import signal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.table import Table

from dgc_topo.cli.bench import bench
from dgc_topo.cli.console import (
    HELP_MARKUP,
    about,
    clear_errors,
    clear_warnings,
    console,
    print_json,
    print_raw,
    topology_from,
)
from dgc_topo.cli.lab import lab
from dgc_topo.cli.options import Fraction, OneDensity, Options, OtherWorldSize, Seed
from dgc_topo.cli.outputs import check_folder, check_picture
from dgc_topo.cli.progress import ProgressBars
from dgc_topo.cli.show import print_findings, print_markdown, print_verification, write_drawing
from dgc_topo.cli.simulate import simulate
from dgc_topo.cli.step import step
from dgc_topo.cli.streams import run
from dgc_topo.cli.validate import calibrate, validate
from dgc_topo.plugins import AskedToEnd
from dgc_topo.wire.coding import INDEX_CHOICES, WIRE_DTYPES, WireCoding

app = typer.Typer(
    name="dgc-topo",
    help="Train neural networks on ordinary networks over any topology, and predict how it scales.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=HELP_MARKUP,
)

ScenarioFile = Annotated[Path, typer.Argument(help="scenario file (TOML)", dir_okay=False)]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="results folder (default: results/NAME)")
]
TopologyName = Annotated[str, typer.Argument(help="topology name, or the path of a .py file")]
WorldSize = Annotated[int, typer.Option("--world-size", "-n", help="number of ranks")]


@app.command()
def compare(
    scenario: ScenarioFile,
    output: Output = None,
    minutes: Annotated[
        float, typer.Option(help="begin no run of a ladder after so many; call again to go on")
    ] = math.inf,
) -> None:
    """Train a scenario over each of its topologies, predict other networks, and report.

    A [ladder] goes on where it was left.
    """
    from dgc_topo.experiments.runner import run_scenario

    with clear_errors():
        check_folder("--output", output)
        with ProgressBars(console) as bars:
            folder = run_scenario(scenario, output, bars, limit_s=60 * minutes)
        print_findings(folder)


app.command()(simulate)
app.command()(step)
app.command()(calibrate)
app.command()(validate)
app.add_typer(lab, name="lab")
app.add_typer(bench, name="bench")


@app.command()
def train(
    scenario: ScenarioFile,
    topology: Annotated[str, typer.Option(help="one of the scenario's topologies, or another")],
    density: OneDensity = None,
    option: Options = None,
    world_size: OtherWorldSize = None,
    output: Output = None,
) -> None:
    """Train a scenario over one topology on local worker processes."""
    from dgc_topo.experiments.runner import Part, run_scenario

    with clear_errors():
        check_folder("--output", output)
        part = Part(topology_from(topology, option or []), density, world_size)
        with ProgressBars(console) as bars:
            folder = run_scenario(scenario, output, bars, part=part)
        print_findings(folder)


@app.command()
def verify(
    name: TopologyName, world_size: WorldSize, option: Options = None, seed: Seed = 0
) -> None:
    """Prove that a topology computes what it promises, and count what it costs."""
    from dgc_topo.proof import verify as prove

    with clear_errors(), about(name):
        topology = topology_from(name, option or [])
        print_verification(topology.label, world_size, prove(topology, world_size, seed=seed))


@app.command()
def show(
    name: TopologyName,
    world_size: WorldSize,
    option: Options = None,
    iteration: Annotated[int, typer.Option(help="for topologies that change", min=0)] = 0,
    seed: Seed = 0,
    plot: Annotated[Path | None, typer.Option(help="draw it into this file instead")] = None,
    grid: Annotated[bool, typer.Option("--grid", help="a row per step, a column per rank")] = False,
) -> None:
    """Print a schedule in its text form, as a grid, or draw it."""
    from dgc_topo.schedule.text import format_grid, format_schedule

    with clear_errors(), about(name):
        check_picture("--plot", plot)
        topology = topology_from(name, option or [])
        schedule = topology.schedule(world_size, iteration=iteration, seed=seed)
        if plot is not None:
            write_drawing(schedule, topology.label, plot)
            console.print(f"drawn: {plot}")
        elif grid:
            print_raw(format_grid(schedule) + "\n")
        else:
            print_raw(format_schedule(schedule))


@app.command()
def topologies() -> None:
    """List the installed topologies and their options."""
    with clear_errors():
        _print_topologies()


def _print_topologies() -> None:
    from dgc_topo.plugins import TopologyError, known_topologies
    from dgc_topo.topology import load_topology, option_choices

    table = Table("topology", "what it is", "options", show_lines=True)
    for name in known_topologies():
        try:
            topology = load_topology(name)
        except TopologyError as error:  # one broken package hides no other
            table.add_row(name, str(error), "")
            continue
        choices = option_choices(topology.builder)
        options = "\n".join(f"{key}: {text}" for key, text in choices.items())
        table.add_row(name, topology.summary, options)
    console.print(table)


@app.command()
def networks() -> None:
    """List the named networks, their numbers and where these come from."""
    with clear_errors():
        _print_networks()


def _print_networks() -> None:
    from dgc_topo.network import known_fabrics, load_fabric

    table = Table("network", "MB/s", "latency (us)", "source")
    for name in known_fabrics():
        if name == "ideal":
            table.add_row(name, "any", "any", "given numbers and nothing else")
            continue
        fabric = load_fabric(name)
        bandwidth, latency = fabric.bandwidth_bytes_per_s / 1e6, fabric.latency_s * 1e6
        table.add_row(name, f"{bandwidth:,.1f}", f"{latency:g}", fabric.source)
    console.print(table)


@app.command()
def sizes(
    model: Annotated[str, typer.Argument(help="model of the zoo, such as resnet50")],
    density: Fraction = 0.001,
    bytes_per_element: Annotated[
        float, typer.Option(help="value and index; the DGC paper's code: 6")
    ] = 6,
    index_encoding: Annotated[
        str, typer.Option(help="of this library's messages: " + ", ".join(INDEX_CHOICES))
    ] = "auto",
    wire_dtype: Annotated[
        str, typer.Option(help="of values in them: " + ", ".join(WIRE_DTYPES))
    ] = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    """Print what a model's gradient takes on the wire when DGC compresses it."""
    from dgc_topo.cli.sizes import Coding, print_sizes
    from dgc_topo.zoo import load_model

    with clear_errors():
        wire = WireCoding.named(index_encoding, wire_dtype)
        coding = Coding(density=density, bytes_per_element=bytes_per_element, wire=wire)
        print_sizes(load_model(model), coding, as_json=as_json)


class Downloadable(StrEnum):
    """Data sets that can be fetched."""

    FASHION_MNIST = "fashion-mnist"


@app.command()
def data(
    name: Annotated[Downloadable, typer.Argument(help="which data set")],
    destination: Annotated[Path | None, typer.Option(help="folder to put it in")] = None,
) -> None:
    """Fetch a full data set, with its checksums checked."""
    from dgc_topo.cli.download import fetch

    with clear_errors():
        check_folder("--destination", destination)
        folder = fetch(destination)
        console.print(f"{name.value}: {folder}")


class SchemaOf(StrEnum):
    """What has a schema."""

    SCENARIO = "scenario"
    MEASUREMENT = "measurement"


@app.command()
def schema(
    of: Annotated[SchemaOf, typer.Argument(help="scenario files, or records")] = SchemaOf.SCENARIO,
) -> None:
    """Print the JSON schema of scenario files, or of the records in a results folder."""
    from dgc_topo.experiments.scenario import Scenario
    from dgc_topo.records.measurement import Measurement

    model = Scenario if of is SchemaOf.SCENARIO else Measurement
    with clear_errors():
        print_json(model.model_json_schema(), indent=2)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="results folder")],
    markdown: Annotated[
        bool, typer.Option("--markdown", help="print only a table to paste")
    ] = False,
) -> None:
    """Write a results folder's report again, and print its table."""
    from dgc_topo.records.folder import ResultsFolder
    from dgc_topo.records.records import ResultsError

    with clear_errors(), clear_warnings():
        results = ResultsFolder(folder)
        if not results.measurements():
            raise ResultsError(
                f"{results.measurements_path}: no records, expected at least one; make some with: "
                "dgc-topo compare SCENARIO"
            )
        if markdown:
            print_markdown(results)
            return
        print_findings(results)


def main() -> NoReturn:
    """Run the command line."""
    # Being asked to end must clean up (workers, temporary folders) just as Ctrl-C does.
    signal.signal(signal.SIGTERM, _end)
    run(app)


def _end(number: int, _: object) -> NoReturn:
    raise AskedToEnd(128 + number)
