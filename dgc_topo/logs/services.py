"""Logs for TensorBoard and Weights & Biases, whose packages are optional."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from dgc_topo.files import write_whole
from dgc_topo.logs.callbacks import EvaluationInfo, StepInfo

RUN_ID = "wandb-run.txt"  #: file with the id of a run of Weights & Biases


def _values(step: StepInfo) -> dict[str, float]:
    """Return what is known about a step, by name, without its number."""
    known = asdict(step).items()
    return {f"train/{name}": value for name, value in known if value is not None and name != "step"}


class TensorBoardLog:
    """A callback that writes event files: ``tensorboard --logdir FOLDER``.

    A training that goes on hides what an earlier attempt wrote from its first step on.

    Args:
        folder: Folder for the event files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def on_step(self, step: StepInfo) -> None:
        """Write the step's scalars."""
        writer = self._opened(step.step)
        for name, value in _values(step).items():
            writer.add_scalar(name, value, step.step)

    def on_evaluation(self, evaluation: EvaluationInfo) -> None:
        """Write the quality, under the metric's name."""
        writer = self._opened(evaluation.step)
        writer.add_scalar(f"test/{evaluation.metric}", evaluation.value, evaluation.step)
        writer.flush()

    def close(self) -> None:
        """Write what is left, and close the file."""
        if self._writer is not None:
            self._writer.close()

    def _opened(self, step: int) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - is optional

            self._writer = SummaryWriter(str(self._folder), purge_step=step)
        return self._writer


class WandbLog:
    """A callback that logs to Weights & Biases, as its own settings say (``WANDB_MODE=offline``).

    The run's id is kept in a file.  A training that goes on goes on in its run, which keeps what it
    has of steps that are done again; one that begins with its first step gets a run of its own.

    Args:
        place: Folder of this training's logs, for the file with the id; the package's own files
            are beside it.
        name: Name of the run.
        project: Name of the project.
        config: Settings of the run.
    """

    def __init__(self, place: Path, name: str, project: str, config: Mapping[str, object]) -> None:
        import wandb  # noqa: PLC0415 - is optional

        place.mkdir(parents=True, exist_ok=True)
        self._id_file = place / RUN_ID
        self._init: Callable[..., Any] = partial(
            wandb.init,
            dir=str(place.parent),
            project=project,
            name=name,
            config=dict(config),
            resume="allow",
            reinit="create_new",  # several runs of one comparison
        )
        self._goes_on = self._id_file.exists()
        if self._goes_on:
            self._run = self._init(id=self._id_file.read_text(encoding="utf-8").strip())
        else:
            self._begin()

    def on_step(self, step: StepInfo) -> None:
        """Log the step's values."""
        self._log(_values(step), step.step)

    def on_evaluation(self, evaluation: EvaluationInfo) -> None:
        """Log the quality, under the metric's name."""
        self._log({f"test/{evaluation.metric}": evaluation.value}, evaluation.step)

    def close(self) -> None:
        """End the run."""
        self._run.finish()

    def _log(self, values: Mapping[str, float], step: int) -> None:
        if self._goes_on and step <= 1:  # another training in the same folder
            self._run.finish()
            self._begin()
        self._goes_on = False
        self._run.log(values, step=step)

    def _begin(self) -> None:
        """Begin a new run, whose id is on disk before anything is logged."""
        run_id = secrets.token_hex(4)
        write_whole(self._id_file, run_id)
        self._run = self._init(id=run_id)
