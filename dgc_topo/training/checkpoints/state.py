"""State of a training's ranks in one process: taken, and put back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from dgc_topo.records.measurement import Phases
from dgc_topo.records.quality import LostRank, QualityPoint
from dgc_topo.training.checkpoints.errors import CheckpointError
from dgc_topo.training.checkpoints.plain import plain
from dgc_topo.training.checkpoints.randoms import random_states, restore_random_states
from dgc_topo.training.checkpoints.step_records import StepRecords
from dgc_topo.training.optimizers import OptimizerStep
from dgc_topo.training.rank import TrainingRank
from dgc_topo.training.solo import Solo
from dgc_topo.training.steps import Strategy


class Progress(BaseModel):
    """Position of a training, and what it has found out so far; alike in every process.

    Attributes:
        steps_per_epoch: Number of steps in an epoch.
        step: Steps done.
        first_recorded: First step whose record is there: those of another number of workers are
            not.
        points: What was evaluated.
        solo: Times of a worker alone.
        crowd: Times of a worker while all work on one machine, if measured.
        resumed_at: Steps at which the training went on from a checkpoint.
        lost: Ranks that were lost, and went on without.
    """

    model_config = ConfigDict(ser_json_inf_nan="strings")

    steps_per_epoch: int
    step: int = 0
    first_recorded: int = 0
    points: list[QualityPoint] = []
    solo: Solo | None = None
    crowd: Phases | None = None
    resumed_at: list[int] = []
    lost: list[LostRank] = []


def state_of(
    ranks: Sequence[TrainingRank], strategy: Strategy, progress: Progress, records: StepRecords
) -> Any:
    """Return all state of the ranks in this process, as plain content.

    Tensors that are on the CPU share memory with the live ones: write them before the next step.
    """
    state = {
        "progress": progress.model_dump_json(),
        "parameters": {} if ranks[0].own else dict(ranks[0].parameters),  # which they share
        "strategy": strategy.state_dict(),
        "optimizer": _optimizer_state(ranks),
        "randoms": random_states(),
        "ranks": {
            rank.rank: {**_state_of_rank(rank), "records": records.state_of(rank)} for rank in ranks
        },
    }
    return plain("training", state)


def _optimizer_state(ranks: Sequence[TrainingRank]) -> dict[str, Any]:
    """Return the state of the optimizer that moves the parameters here, if one does.

    Ranks that share parameters share its steps, too: the first worker's moves them.
    """
    moves = [rank.move for rank in ranks if rank.trains] or [ranks[0].move]
    return moves[0].optimizer.state_dict() if isinstance(moves[0], OptimizerStep) else {}


def _state_of_rank(rank: TrainingRank) -> dict[str, Any]:
    own = rank.own
    return {
        "own": None if own is None else own.state_dict(),
        "parameters": {} if own is None else dict(rank.parameters),
        "averager": rank.averager.state_dict(),
        "place": rank.place if rank.trains else None,
        "statistics": dict(rank.model.named_buffers()),
        "compressors": rank.buckets.state_dict(),
        "task": rank.task.state_dict(),
        "randoms": rank.randoms.state_dict(),
    }


def progress_in(content: Mapping[str, Any]) -> Progress:
    """Return the progress in a process's content."""
    return Progress.model_validate_json(content["progress"])


def restore(
    contents: Sequence[Mapping[str, Any]], ranks: Sequence[TrainingRank], strategy: Strategy
) -> None:
    """Put back the state of the ranks in this process, without the records of their steps.

    Args:
        contents: Contents of the files that hold these ranks.
        ranks: The ranks, newly made by the same settings.
        strategy: Their strategy, likewise.

    Raises:
        CheckpointError: if names or shapes differ.
    """
    saved = ranks_in(contents)
    if ranks[0].own is None:
        copy_tensors("parameters", contents[0]["parameters"], ranks[0].parameters)
    for rank in ranks:
        own = saved[rank.rank]
        if rank.own is not None:
            copy_tensors("parameters", own["parameters"], rank.parameters)
            rank.own.load_state_dict(own["own"])
        rank.averager.load_state_dict(own["averager"])
        put_statistics(own, rank)
        rank.buckets.load_state_dict(own["compressors"])
        rank.task.load_state_dict(own["task"])
        rank.randoms.load_state_dict(own["randoms"])
        if isinstance(rank.move, OptimizerStep):
            rank.move.optimizer.load_state_dict(contents[0]["optimizer"])
    strategy.load_state_dict(contents[0]["strategy"])
    restore_random_states(contents[0]["randoms"])


def ranks_in(contents: Iterable[Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
    """Return the states of all ranks in *contents*, by rank."""
    return {rank: state for content in contents for rank, state in content["ranks"].items()}


def put_statistics(saved: Mapping[str, Any], rank: TrainingRank) -> None:
    """Put back what a rank's model keeps beside its parameters."""
    copy_tensors("buffers", saved["statistics"], dict(rank.model.named_buffers()))


@torch.no_grad()
def copy_tensors(what: str, saved: Mapping[str, Tensor], live: Mapping[str, Tensor]) -> None:
    """Copy saved tensors into the live ones.

    Raises:
        CheckpointError: if names or shapes differ; nothing has changed then.
    """
    if saved.keys() != live.keys():
        odd = sorted(saved.keys() ^ live.keys())
        raise CheckpointError(f"checkpoint: {what} {odd}: on one side only, expected the same")
    for name, tensor in live.items():
        if saved[name].shape != tensor.shape or saved[name].dtype != tensor.dtype:
            raise CheckpointError(
                f"checkpoint: {what} {name!r} is {tuple(saved[name].shape)} {saved[name].dtype}, "
                f"expected {tuple(tensor.shape)} {tensor.dtype}"
            )
    for name, tensor in live.items():
        tensor.copy_(saved[name])
