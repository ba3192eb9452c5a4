"""`Results` of a scenario, to query and to show in a notebook; `run` and `load_results`."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dgc_topo.records.configuration import measured, predicted
from dgc_topo.records.folder import ResultsFolder
from dgc_topo.records.frame import to_frame, to_quality_frame
from dgc_topo.records.measurement import Measurement
from dgc_topo.records.origin import Origin
from dgc_topo.records.records import MEASUREMENTS, ResultsError, load_measurements
from dgc_topo.scalars import plain_int

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from dgc_topo.experiments.runner import Observer
    from dgc_topo.report.results_diff import ResultsDiff
    from dgc_topo.topology import Topology

_FOLDER = Path("results")  # folder in which commands put results


class Results:
    """Records of one results folder, measured and predicted.

    Attributes:
        path: The folder, or a file of records.
        records: All of them, in the order in which they were made.
    """

    def __init__(self, path: str | Path) -> None:
        """Read the records.

        Raises:
            ResultsError: if there are none to be read, naming file and line.
        """
        self.path = Path(path)
        self.records: tuple[Measurement, ...] = tuple(load_measurements(path))

    def __repr__(self) -> str:
        """Return the path, and how many records there are."""
        counts = f"{len(self.measured)} measured, {len(self.predicted)} predicted"
        return f"Results({str(self.path)!r}: {counts})"

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.records)

    def __iter__(self) -> Iterator[Measurement]:
        """Yield the records."""
        return iter(self.records)

    @property
    def measured(self) -> list[Measurement]:
        """Records of real runs."""
        return measured(self.records)

    @property
    def predicted(self) -> list[Measurement]:
        """Records of simulations."""
        return predicted(self.records)

    def models(self, which: str = "best") -> list[tuple[Measurement, Path]]:
        """Return the runs that kept their models, each with the file of one.

        ``model.load_state_dict(torch.load(path, weights_only=True))`` loads it.

        Args:
            which: ``"best"`` by the evaluation's metric, or ``"last"``.

        Raises:
            ValueError: if *which* is neither.
        """
        if which not in {"best", "last"}:
            raise ValueError(f"models: {which!r}, expected 'best' or 'last'")
        return [
            (record, self.path / str(getattr(record.models, which)))
            for record in self.measured
            if record.models is not None
        ]

    def to_frame(self) -> pd.DataFrame:
        """Return one row per record, units in the names of columns; see `records.frame`."""
        return to_frame(self.records)

    def to_quality_frame(self) -> pd.DataFrame:
        """Return one row per evaluation of a training: quality and loss after each epoch."""
        return to_quality_frame(self.records)

    def findings(self) -> list[str]:
        """Return sentences: findings, the assumptions behind numbers, the scenario's claims."""
        from dgc_topo.report.summary import summarise  # noqa: PLC0415  # reading needs no tables

        text = ResultsFolder(self.path).known_scenario_text() if self.path.is_dir() else ""
        return summarise(self.records, text)[1]

    def plot(self, name: str, records: Iterable[Measurement] | None = None) -> Figure:
        """Return a plot, which a notebook shows.

        Args:
            name: One of

                - ``quality``, ``phases``, ``wire-bytes``: of trainings;
                - ``speedup``, ``step-time``: of predictions, over the number of ranks;
                - ``ladder-quality``, ``ladder-endings``, ``ladder-density``,
                  ``ladder-staleness``: of a ladder.
            records: Records to draw; all by default.

        Raises:
            ValueError: if there is no such plot, or no ladder in the records to draw one of.

        Example:
            >>> results = dt.run("dgc-paper-figure6", train=False)
            >>> results.plot("speedup").savefig("speedup.png")
        """
        from dgc_topo.report import ladder_plots, plots  # noqa: PLC0415  # takes matplotlib

        drawings = {
            "quality": plots.quality_figure,
            "phases": plots.phases_figure,
            "wire-bytes": plots.wire_bytes_figure,
            "speedup": plots.speedup_figure,
            "step-time": plots.step_time_figure,
            "ladder-quality": ladder_plots.curves_figure,
            "ladder-endings": ladder_plots.endings_figure,
            "ladder-density": ladder_plots.density_figure,
            "ladder-staleness": ladder_plots.staleness_figure,
        }
        if name not in drawings:
            raise ValueError(f"plot {name!r}: unknown, expected one of {', '.join(drawings)}")
        return drawings[name](self.records if records is None else records)

    def diff(self, after: Results) -> ResultsDiff:
        """Compare these results with later ones: what changed, in which runs, and in the settings.

        Example:
            >>> first = dt.run("dgc-paper-figure6", "results/first", train=False)
            >>> first.diff(dt.run("dgc-paper-figure6", "results/second", train=False)).summary
            '0 of 448 common numbers changed'
        """
        from dgc_topo.report.results_diff import diff_results  # noqa: PLC0415

        return diff_results(self, after)

    def report(self) -> Path:
        """Write ``report.html`` into the folder, and return its path.

        Raises:
            ResultsError: if this is no results folder.
        """
        from dgc_topo.report.report import write_report  # noqa: PLC0415  # takes matplotlib

        return write_report(ResultsFolder(self.path))

    def _repr_html_(self) -> str:
        """Return the comparison table."""
        from dgc_topo.report.summary import summarise  # noqa: PLC0415
        from dgc_topo.report.table import html_table  # noqa: PLC0415

        return html_table(summarise(self.records)[0])


class FoundResults(NamedTuple):
    """Results folder on disk, in a line.

    Attributes:
        path: The folder.
        scenario: Name of its scenario.
        begun: When its run began; None if its file of origin is missing.
        num_measured: Records of real runs.
        num_predicted: Records of simulations.
    """

    path: Path
    scenario: str
    begun: datetime | None
    num_measured: int
    num_predicted: int


def found_in(folder: str | Path) -> list[FoundResults]:
    """Return the results folders right inside a folder, in the order in which they were begun.

    A folder whose records cannot be read is left out with a warning that says why.

    Raises:
        ResultsError: if there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ResultsError(f"{folder}: no such folder, expected one that holds results folders")
    found = []
    for path in sorted(folder.iterdir()):
        if not (path / MEASUREMENTS).is_file():
            continue
        try:
            records = load_measurements(path)
        except ResultsError as error:
            warnings.warn(str(error), stacklevel=2)
            continue
        try:
            origin: Origin | None = ResultsFolder(path).origin()
        except ResultsError:
            origin = None
        name = origin.scenario if origin else records[0].scenario if records else "-"
        begun = origin.created if origin else None
        counts = len(measured(records)), len(predicted(records))
        found.append(FoundResults(path, name, begun, *counts))
    return sorted(found, key=lambda each: each.begun.timestamp() if each.begun else 0.0)


def load_results(path_or_name: str | Path) -> Results:
    """Return the results in a folder or file, or in ``results/NAME``, where commands put them.

    Args:
        path_or_name: A path, or a name such as ``quickstart``, which has no slash and no suffix.

    Raises:
        ResultsError: if there are none to be read.

    Example:
        >>> made = dt.run("dgc-paper-figure6", train=False)  # into results/dgc-paper-figure6
        >>> dt.load_results("dgc-paper-figure6")
        Results('results/dgc-paper-figure6': 0 measured, 112 predicted)
    """
    path = Path(path_or_name)
    is_name = str(path_or_name) == path.name and not path.suffix
    named = _FOLDER / path
    return Results(named if is_name and (named.is_dir() or not path.exists()) else path)


def run(
    scenario: str | Path,
    output: str | Path | None = None,
    *,
    topology: str | Topology | None = None,
    density: float | str | None = None,
    world_size: int | None = None,
    train: bool = True,
    observer: Observer | None = None,
) -> Results:
    """Run a scenario: train what it names on local workers, predict, and write the report.

    Args:
        scenario: Scenario file, or the name of one that comes with the package.
        output: Results folder; ``results/NAME`` by default.  Earlier results there are renamed.
        topology: Train over this topology only, whether the scenario has it or not.
        density: With *topology*: train at this density only, such as ``0.001`` or ``"0.1%"``.
        world_size: With *topology*: number of ranks, instead of the scenario's.
        train: False predicts the workloads that the scenario describes, and trains nothing.
        observer: Object that is told about progress; none by default.

    Returns:
        Measured and predicted records, which are in the folder as well.

    Raises:
        ScenarioError: if the scenario is wrong, or options do not go together.
        ResultsError: if there is no room for results; raised before anything is done.
        LaunchError: if a worker fails.
        LabError: if this machine cannot build the lab that the scenario names.

    Example:
        >>> results = dt.run("dgc-paper-figure6", train=False)
        >>> results
        Results('results/dgc-paper-figure6': 0 measured, ... predicted)
    """
    from dgc_topo.experiments.jobs import Part  # noqa: PLC0415 - reading results needs no runs
    from dgc_topo.experiments.runner import Silent, run_scenario  # noqa: PLC0415
    from dgc_topo.experiments.scenario import ScenarioError  # noqa: PLC0415
    from dgc_topo.simulation.arguments import as_fraction  # noqa: PLC0415
    from dgc_topo.topology import load_topology  # noqa: PLC0415

    if topology is None and (density, world_size) != (None, None):
        raise ScenarioError(f"{scenario}: density or world_size, expected topology as well")
    if topology is not None and not train:
        raise ScenarioError(f"{scenario}: topology with train=False, expected the whole scenario")
    part = None
    if topology is not None:
        fraction = as_fraction(density) if density is not None else None
        ranks = None if world_size is None else plain_int("world_size", world_size)
        part = Part(load_topology(topology), fraction, ranks)
    folder = run_scenario(scenario, output, observer or Silent(), train=train, part=part)
    results = Results(folder.path)
    results.report()
    return results
