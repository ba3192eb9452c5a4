"""Going on with another number of workers: what each new rank gets from the former ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from dgc_topo.compression.resharding import state_for
from dgc_topo.records.quality import LostRank, QualityPoint
from dgc_topo.training.checkpoints.errors import CheckpointError
from dgc_topo.training.checkpoints.state import (
    Progress,
    copy_tensors,
    progress_in,
    put_statistics,
    ranks_in,
)
from dgc_topo.training.job import Job
from dgc_topo.training.optimizers import OptimizerStep
from dgc_topo.training.rank import TrainingRank
from dgc_topo.training.steps import Strategy

_Point = TypeVar("_Point", QualityPoint, LostRank)


def resize(
    job: Job,
    contents: Sequence[Mapping[str, Any]],
    ranks: Sequence[TrainingRank],
    strategy: Strategy,
    steps_per_epoch: int,
) -> Progress:
    """Put the state of a training with another number of workers into the ranks here.

    Parameters and everything after the sum stay.  Velocities and residuals are shared out anew,
    see `state_for`; where ranks have parameters of their own all begin with the average of these
    (and of SGD's momentum), see `Averager.resume_from`.  Running
    statistics and random streams stay with the places that are still there.  The data is cut into
    other batches: the training goes on after as much of the epoch as was done, without the hidden
    state of texts.

    Args:
        job: The training, with its new number of workers.
        contents: Contents of all files of the checkpoint.
        ranks: The ranks in this process, newly made.
        strategy: Their strategy, likewise.
        steps_per_epoch: With the new number of workers.

    Returns:
        The position in the new steps.  Records of the former steps are left out.

    Raises:
        CheckpointError: if the method keeps its residual in another form.
    """
    if job.compression.method == "ddp-powersgd":
        raise CheckpointError(
            f"{job.label}: PowerSGD keeps its residual by DDP's buckets, which other workers "
            "cannot share out; expected as many as before"
        )
    saved = ranks_in(contents)
    former = sorted(
        (each for each in saved.values() if each["place"] is not None), key=lambda s: s["place"]
    )
    if ranks[0].own is None:
        copy_tensors("parameters", contents[0]["parameters"], ranks[0].parameters)
    for rank in ranks:
        _share_out(former, rank)
    for rank in ranks:
        put_statistics(former[rank.place % len(former)], rank)
        if rank.trains and rank.place < len(former):
            rank.randoms.load_state_dict(former[rank.place]["randoms"])
        if isinstance(rank.move, OptimizerStep):
            rank.move.optimizer.load_state_dict(contents[0]["optimizer"])
    strategy.load_state_dict(contents[0]["strategy"])
    return _moved(progress_in(contents[0]), steps_per_epoch)


def _share_out(former: Sequence[Mapping[str, Any]], rank: TrainingRank) -> None:
    num_workers = rank.num_workers
    # A rank that only serves has no residual, as one that comes after all others.
    place = rank.place if rank.trains else max(num_workers, len(former))
    num_places = max(num_workers, place + 1)
    states = [each["compressors"] for each in former]
    rank.buckets.load_state_dict(
        [state_for(bucket, place, num_places) for bucket in zip(*states, strict=True)]
    )
    averagers = [each["averager"] for each in former]
    rank.averager.load_state_dict(state_for(averagers, place, num_places))
    if rank.own is not None:
        rank.own.resume_from([each["own"] for each in former], rank.place)
        rank.averager.resume_from([each["parameters"] for each in former], averagers)


def _moved(progress: Progress, steps_per_epoch: int) -> Progress:
    """Return the progress in steps of which an epoch has another number."""

    def moved(step: int) -> int:
        # Rounded down, so that an epoch that is not over stays so.
        return step * steps_per_epoch // progress.steps_per_epoch

    position = moved(progress.step)
    return progress.model_copy(
        update={
            "steps_per_epoch": steps_per_epoch,
            "step": position,
            "points": [_at(moved(point.step), point) for point in progress.points],
            "resumed_at": [moved(step) for step in progress.resumed_at],
            "lost": [_at(moved(lost.step), lost) for lost in progress.lost],
            "first_recorded": position,
            "solo": None,
            "crowd": None,
        }
    )


def _at(step: int, point: _Point) -> _Point:
    return point.model_copy(update={"step": step})
