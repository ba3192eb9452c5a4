"""Definition of every ``dgc-topo`` command; each is a thin layer over the library."""

from __future__ import annotations

import math
import signal
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from dgc_topo.cli import lists
from dgc_topo.cli.advise import advise
from dgc_topo.cli.bench import bench
from dgc_topo.cli.console import (
    HELP_MARKUP,
    about,
    clear_errors,
    console,
    naming_options,
    print_raw,
    topology_from,
)
from dgc_topo.cli.downloads import data
from dgc_topo.cli.lab import lab
from dgc_topo.cli.options import (
    OF_A_PART,
    TOPOLOGY,
    AsJson,
    AveragingRule,
    Fraction,
    MaxRestarts,
    OneDensity,
    Options,
    OtherWorldSize,
    Output,
    Resume,
    ScenarioFile,
    Seed,
    WorldSize,
)
from dgc_topo.cli.outputs import check_folder, check_picture
from dgc_topo.cli.results_folders import results
from dgc_topo.cli.simulate import simulate
from dgc_topo.cli.step import step
from dgc_topo.cli.streams import run
from dgc_topo.cli.sweeps import sweep
from dgc_topo.cli.validate import calibrate, validate
from dgc_topo.liveness import end_with_launcher
from dgc_topo.wire.coding import INDEX_CHOICES, WIRE_DTYPES, WireCoding
from dgc_topo.workers.seat import was_launched

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


TopologyName = Annotated[str, typer.Argument(help=TOPOLOGY)]


@app.command()
def compare(
    scenario: ScenarioFile,
    output: Output = None,
    minutes: Annotated[
        float, typer.Option(help="begin no run of a ladder after so many; call again to go on")
    ] = math.inf,
    max_restarts: MaxRestarts = 0,
) -> None:
    """Train a scenario over each of its topologies, predict other networks, and report.

    An interrupted [ladder] continues where it stopped, and so does any other scenario: runs that
    are there stay, and a run that was under way goes on from its checkpoint.

    For example:

    - dgc-topo compare quickstart
    - dgc-topo compare mine.toml -o results/second
    """
    from dgc_topo.cli.going_on import saying_how_to_go_on
    from dgc_topo.cli.progress import ProgressBars
    from dgc_topo.cli.show import print_findings
    from dgc_topo.experiments.runner import run_scenario

    with clear_errors():
        check_folder("--output", output)
        going_on = saying_how_to_go_on("the same command goes on", scenario, output)
        with going_on, ProgressBars(console) as bars:
            folder = run_scenario(
                scenario, output, bars, limit_s=60 * minutes, max_restarts=max_restarts
            )
        print_findings(folder)


app.command()(advise)
app.command()(simulate)
app.command()(step)
app.command()(sweep)
app.command()(calibrate)
app.command()(validate)
app.add_typer(lab, name="lab")
app.add_typer(bench, name="bench")
app.add_typer(results, name="results")


@app.command()
def train(  # noqa: PLR0913, PLR0917 - one argument per option
    scenario: ScenarioFile,
    topology: Annotated[str, typer.Option(help=TOPOLOGY)],
    density: OneDensity = None,
    option: Options = None,
    averaging: AveragingRule = None,
    world_size: OtherWorldSize = None,
    output: Output = None,
    resume: Resume = False,
    max_restarts: MaxRestarts = 0,
) -> None:
    """Train a scenario over one topology, on local processes or on those of a launcher.

    Under torchrun, srun or mpirun each process is one rank of the training.  With --resume the
    same command begins a training, and goes on with it whenever it was stopped, perhaps with
    another --world-size.  Without, earlier results are renamed and the training begins anew.

    With --max-restarts, workers that are killed or frozen are replaced, and the training goes on
    from the newest checkpoint.  (How often there is one: checkpoint_every in [train].)  torchrun
    has such an option itself, and needs --resume behind it.

    For example:

    - dgc-topo train quickstart --topology ring --density 0.001
    - torchrun --nproc-per-node 4 -m dgc_topo train quickstart --topology butterfly
    - dgc-topo train quickstart --topology ring --averaging diloco:every=50
    - dgc-topo train quickstart --topology ring --resume
    - dgc-topo train quickstart --topology ring --max-restarts 10
    - torchrun --max-restarts 3 --nproc-per-node 4 -m dgc_topo train a.toml --topology ring --resume
    """
    from dgc_topo.averaging import load_averaging
    from dgc_topo.cli.going_on import saying_how_to_go_on
    from dgc_topo.cli.progress import ProgressBars
    from dgc_topo.cli.show import print_findings
    from dgc_topo.experiments.jobs import Part
    from dgc_topo.experiments.runner import run_scenario

    def get_part() -> Part:
        rule = None if averaging is None else load_averaging(averaging)
        return Part(topology_from(topology, option or []), density, world_size, rule)

    how = "the same command " + ("goes on" if resume else "with --resume goes on")
    how += " from the newest checkpoint"
    going_on = saying_how_to_go_on(how, scenario, output, get_part)
    with clear_errors(), naming_options(OF_A_PART):
        if was_launched():
            from dgc_topo.cli.under_launcher import train_as_rank

            if max_restarts:
                raise ValueError(
                    f"--max-restarts {max_restarts}: under a launcher, which starts the processes, "
                    "expected none (give torchrun its own --max-restarts, and this --resume)"
                )
            with going_on:
                train_as_rank(scenario, get_part, output, resume=resume)
            return
        check_folder("--output", output)
        part = get_part()
        with going_on, ProgressBars(console) as bars:
            folder = run_scenario(
                scenario, output, bars, part=part, resume=resume, max_restarts=max_restarts
            )
        print_findings(folder)


@app.command()
def verify(
    name: TopologyName, world_size: WorldSize, option: Options = None, seed: Seed = 0
) -> None:
    """Prove that a topology computes what it promises, and count what it costs.

    For example:

    - dgc-topo verify butterfly -n 8 --option order=far
    - dgc-topo verify mine.py -n 5
    """
    from dgc_topo.cli.show import print_proof
    from dgc_topo.proof import prove

    with clear_errors(), about(name):
        topology = topology_from(name, option or [])
        print_proof(prove(topology, world_size, seed=seed))


@app.command()
def show(
    name: TopologyName,
    world_size: WorldSize,
    option: Options = None,
    iteration: Annotated[int, typer.Option(help="for topologies that change", min=0)] = 0,
    seed: Seed = 0,
    plot: Annotated[
        Path | None, typer.Option(help="draw it into this file instead; an .html file moves")
    ] = None,
    grid: Annotated[bool, typer.Option("--grid", help="a row per step, a column per rank")] = False,
) -> None:
    """Print a schedule in its text form, as a grid, or draw it, also step by step.

    For example:

    - dgc-topo show ring -n 4 --grid
    - dgc-topo show butterfly -n 8 --plot butterfly.html
    - dgc-topo show mine.py -n 8 --plot mine.svg
    """
    from dgc_topo.cli.show import write_drawing
    from dgc_topo.schedule.text import format_schedule

    with clear_errors(), about(name):
        check_picture("--plot", plot, ".html")
        if plot is not None and grid:
            raise ValueError("--plot and --grid: expected one of them at most")
        topology = topology_from(name, option or [])
        schedule = topology.schedule(world_size, iteration=iteration, seed=seed)
        if plot is not None:
            write_drawing(schedule, topology.label, plot)
            console.print(f"drawn: {plot}")
        elif grid:
            print_raw(f"{schedule.grid()}\n")
        else:
            print_raw(format_schedule(schedule))


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
    as_json: AsJson = False,
) -> None:
    """Print the bytes of a model's gradient on the wire, dense and compressed by DGC."""
    from dgc_topo.cli.sizes import GradientCoding, print_sizes
    from dgc_topo.zoo import load_model

    options = {
        "density": "--density",
        "bytes_per_element": "--bytes-per-element",
        "coding: index_encoding": "--index-encoding",
        "coding: wire_dtype": "--wire-dtype",
    }
    with clear_errors(), naming_options(options):
        wire = WireCoding.named(index_encoding, wire_dtype)
        coding = GradientCoding(density=density, bytes_per_element=bytes_per_element, wire=wire)
        print_sizes(load_model(model), coding, as_json=as_json)


for listing in (lists.topologies, lists.networks, lists.scenarios, lists.schema, lists.env):
    app.command()(listing)
app.command()(data)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="results folder")],
    markdown: Annotated[
        bool, typer.Option("--markdown", help="print only a table to paste")
    ] = False,
) -> None:
    """Write a results folder's report again, and print its table.

    For example:

    - dgc-topo report results/quickstart --markdown
    """
    from dgc_topo.cli.show import (
        print_findings,
        print_markdown,
        print_sweep,
        print_sweep_markdown,
        print_validation,
        print_validation_markdown,
    )
    from dgc_topo.records.folder import ResultsFolder
    from dgc_topo.records.records import SWEEP, VALIDATION, ResultsError

    with clear_errors():
        if (folder / SWEEP).is_file():
            (print_sweep_markdown if markdown else print_sweep)(folder)
            return
        if (folder / VALIDATION).is_file():
            (print_validation_markdown if markdown else print_validation)(folder)
            return
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
    # Imported before it is needed: a second signal may come while the first one is handled.
    from dgc_topo.python_files import AskedToEnd

    def end(number: int, _: object) -> NoReturn:
        raise AskedToEnd(128 + number)

    end_with_launcher()
    # SIGTERM must clean up (workers, temporary folders) just as Ctrl-C does.
    signal.signal(signal.SIGTERM, end)
    run(app)
