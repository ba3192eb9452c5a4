"""Files of a run's last and best model, which anybody can load."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from dgc_topo.records.quality import ModelFiles, QualityPoint
from dgc_topo.records.room import MODELS
from dgc_topo.training.checkpoints.file import write_tensors
from dgc_topo.training.checkpoints.keeping import Keeping, name_of
from dgc_topo.training.checkpoints.plain import plain
from dgc_topo.training.job import Job


def save_model(
    keeping: Keeping, job: Job, model: nn.Module, points: list[QualityPoint], *, rises: bool
) -> None:
    """Write the model of the last evaluation, and as the best one if it is.

    ``torch.load(path, weights_only=True)`` is its ``state_dict``.

    Args:
        keeping: Names the results folder.
        job: Names the files.
        model: The workers' average model, as it was evaluated.
        points: All evaluations so far; of equal ones the first is the best.
        rises: True if a higher value is better.

    Raises:
        WriteError: if the disk refuses; earlier files are as they were.
    """
    state = plain("model", dict(model.state_dict()))
    best = best_of(points, rises=rises)
    for which, is_due in (("best", best == len(points) - 1), ("last", True)):
        if is_due:
            path = keeping.model_file(job, which)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_tensors(path, state)


def best_of(points: list[QualityPoint], *, rises: bool) -> int:
    """Return the number of the best evaluation."""
    order = max if rises else min
    return order(range(len(points)), key=lambda number: points[number].value)


def model_files(keeping: Keeping, job: Job, points: list[QualityPoint]) -> ModelFiles | None:
    """Return the names of the files in the results folder; None if nothing was evaluated."""
    if not points:
        return None
    last, best = (str(Path(MODELS, f"{name_of(job)}-{which}.pt")) for which in ("last", "best"))
    return ModelFiles(last=last, best=best)
