"""`sweep_scenario`: the sweep that a scenario's ``[sweep]`` describes, in a results folder."""

from __future__ import annotations

from pathlib import Path

from dgc_topo.experiments.scenario import Scenario, ScenarioError, parse_scenario
from dgc_topo.experiments.scenario.load import kept_of, read_scenario
from dgc_topo.experiments.shipped import scenario_path
from dgc_topo.experiments.sweep.grid import SweepGrid
from dgc_topo.experiments.sweep.networks import base_network
from dgc_topo.experiments.sweep.result import SweepRecords
from dgc_topo.experiments.sweep.running import SweepObserver, run_grid
from dgc_topo.experiments.sweep.store import SweptScenario


def sweep_scenario(
    path: str | Path,
    output: str | Path | None = None,
    observer: SweepObserver | None = None,
    processes: int | None = None,
) -> SweepRecords:
    """Predict all combinations that a scenario's ``[sweep]`` names, or those that are missing.

    Args:
        path: Scenario file, or the name of one that comes with the package.
        output: Folder of the records; ``results/NAME`` by default.
        observer: Is told about progress.
        processes: See `dgc_topo.experiments.sweep.sweep`.

    Raises:
        ValueError: if no scenario that comes with the package has that name.
        ScenarioError: if the scenario is wrong, or has no ``[sweep]``.
        ResultsError: if there is no room for the records; raised before anything is predicted.
        LaunchError: if a worker fails.
    """
    file = scenario_path(path)
    text = read_scenario(file)
    scenario = parse_scenario(text, str(file), file.parent)
    grid = grid_of(scenario, str(file))
    kept = kept_of(text, scenario, file.parent)
    swept = SweptScenario(scenario.name, file, kept.text, kept.files)
    folder = Path("results", scenario.name) if output is None else Path(output)
    return run_grid(grid, folder, swept, processes, observer)


def grid_of(scenario: Scenario, where: str = "scenario") -> SweepGrid:
    """Return the grid of a scenario's ``[sweep]``, over the scenario's topologies by default.

    Raises:
        ScenarioError: naming the file (*where*) and the key, if it has none, or axes do not fit.
    """
    axes = scenario.sweep
    if axes is None:
        raise ScenarioError(f"{where}: has no [sweep], expected one with lists and ranges")
    if not axes.topology:
        axes = axes.model_copy(update={"topology": scenario.topologies})
    try:
        networks = [
            base_network(scenario.network(str(each)), axes.folder_of_files) for each in axes.network
        ]
        return SweepGrid(axes, tuple(networks), scenario.seed)
    except ValueError as error:
        key = "" if str(error).startswith("sweep") else "sweep."
        raise ScenarioError(f"{where}: {key}{error}") from error
