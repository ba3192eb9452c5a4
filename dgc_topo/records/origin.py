"""Origin of results: the scenario, the machine and the command, kept beside the records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from dgc_topo.files import write_whole
from dgc_topo.records.environment import Environment, describe_environment
from dgc_topo.records.records import HINT, ResultsError, first_problem
from dgc_topo.records.room import ENVIRONMENT, FILES, SCENARIO

COMPARE = ("dgc-topo", "compare", SCENARIO)  #: command that runs most scenarios


class Origin(BaseModel):
    """Origin of results: the content of ``environment.json``.

    Attributes:
        scenario: Its name.
        created: When the run was started.
        environment: The machine; None if it is not known.
        command: Command that runs the scenario again, in a folder with its ``scenario.toml``.
    """

    model_config = ConfigDict(frozen=True)

    scenario: str
    created: datetime
    environment: Environment | None
    command: tuple[str, ...] = COMPARE


def describe_run(
    folder: Path, scenario_text: str, origin: Origin, files: Mapping[str, Path]
) -> None:
    """Write what was run into a folder: the scenario, its files, and the origin if it is missing.

    Args:
        folder: Folder of results.
        scenario_text: Exact text of the scenario file.
        origin: Machine and command.
        files: Files that the scenario uses, by the paths of their copies in ``files/``.

    Raises:
        OSError: if the disk refuses.
    """
    write_whole(folder / SCENARIO, scenario_text)
    for name, file in files.items():
        copy = folder / FILES / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_whole(copy, file.read_bytes())
    try:
        origin_in(folder / ENVIRONMENT)
    except ResultsError:
        write_whole(folder / ENVIRONMENT, origin.model_dump_json(indent=2) + "\n")


def kept_run(folder: Path) -> tuple[Origin | None, str]:
    """Return the origin of a folder's results and its scenario's text: the inverse of the above.

    None and "" stand for what the folder does not have: results may come from Python.

    Raises:
        ResultsError: if a file is there but unreadable.
    """
    environment, scenario = folder / ENVIRONMENT, folder / SCENARIO
    origin = origin_in(environment) if environment.exists() else None
    return origin, read_text(scenario) if scenario.exists() else ""


def origin_in(file: Path) -> Origin:
    """Return what ``environment.json`` says.

    Raises:
        ResultsError: if it is missing or unreadable.
    """
    try:
        return Origin.model_validate_json(read_text(file))
    except ValidationError as error:
        raise ResultsError(f"{file}: {first_problem(error)}") from error


def origin_of(scenario_name: str, command: Sequence[str]) -> Origin:
    """Return the origin of results that are made here and now."""
    environment = describe_environment()
    now = datetime.now(UTC)
    return Origin(
        scenario=scenario_name, created=now, environment=environment, command=tuple(command)
    )


def read_text(file: Path) -> str:
    """Return the text of a results folder's file.

    Raises:
        ResultsError: if it is missing or unreadable.
    """
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise ResultsError(f"{file}: {error.strerror}, {HINT}") from error
    except UnicodeDecodeError as error:
        raise ResultsError(f"{file}: {error}, expected UTF-8") from error
