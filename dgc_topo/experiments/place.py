"""Where the results of a scenario go, with all that they say of where they come from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dgc_topo.experiments.scenario import Scenario
from dgc_topo.experiments.scenario.load import text_to_keep
from dgc_topo.records.folder import ResultsFolder
from dgc_topo.records.room import SCENARIO, Told


class Place(NamedTuple):
    """Where the results of a scenario go, and where they come from.

    Attributes:
        folder: For the results.
        scenario: Its file.
        name: What it calls itself.
        text: What the folder is to keep of it.
        command: Runs it again, see `Origin`.
    """

    folder: Path
    scenario: Path
    name: str
    text: str
    command: tuple[str, ...]

    @classmethod
    def of(
        cls,
        path: Path,
        text: str,
        scenario: Scenario,
        output: str | Path | None,
        command: Sequence[str],
    ) -> Place:
        """Return the place for the scenario in *path*; ``results/NAME`` without *output*.

        Args:
            path: The scenario file.
            text: What is in it.
            scenario: What it describes.
            output: Folder for the results, if it is given.
            command: What runs it, and its options.
        """
        folder = Path("results", scenario.name) if output is None else Path(output)
        words = ("dgc-topo", command[0], SCENARIO, *command[1:])
        return cls(folder, path, scenario.name, text_to_keep(text, scenario, path.parent), words)

    def open(self, told: Told) -> ResultsFolder:
        """Return the folder, made empty; *told* is called with what was renamed for it."""
        made = ResultsFolder.create(
            self.folder, self.text, self.name, command=self.command, scenario=self.scenario
        )
        return self._tell(made, told)

    def resume(self, told: Told, jobs: Sequence[str]) -> ResultsFolder:
        """Return the folder with what is there of *jobs* (their fingerprints)."""
        found = ResultsFolder.resume(
            self.folder,
            self.text,
            self.name,
            jobs,
            command=self.command,
            scenario=self.scenario,
        )
        return self._tell(found, told)

    def _tell(self, folder: ResultsFolder, told: Told) -> ResultsFolder:
        if folder.aside is not None:
            told(self.folder, folder.aside)
        return folder
