"""Commands ``dgc-topo compare`` and ``dgc-topo train``: real training runs of a scenario."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from dgc_topo.cli.console import clear_errors, console, naming_options, topology_from
from dgc_topo.cli.options import (
    OF_A_PART,
    TOPOLOGY,
    AveragingRule,
    MaxRestarts,
    OneDensity,
    Options,
    OtherWorldSize,
    Output,
    Resume,
    ScenarioFile,
)
from dgc_topo.cli.outputs import check_folder
from dgc_topo.workers.seat import was_launched


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
