"""Logs for TensorBoard and Weights & Biases, whose packages are optional."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dgc_topo.logs.callbacks import EvaluationInfo, StepInfo


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

    Args:
        folder: Folder for its files.
        name: Name of the run.
        project: Name of the project.
        config: Settings of the run.
    """

    def __init__(self, folder: Path, name: str, project: str, config: Mapping[str, object]) -> None:
        import wandb  # noqa: PLC0415 - is optional

        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            dir=str(folder),
            project=project,
            name=name,
            config=dict(config),
            reinit="create_new",  # several runs of one comparison
        )

    def on_step(self, step: StepInfo) -> None:
        """Log the step's values."""
        self._run.log(_values(step), step=step.step)

    def on_evaluation(self, evaluation: EvaluationInfo) -> None:
        """Log the quality, under the metric's name."""
        self._run.log({f"test/{evaluation.metric}": evaluation.value}, step=evaluation.step)

    def close(self) -> None:
        """End the run."""
        self._run.finish()
