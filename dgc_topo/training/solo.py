"""Lone workers, which do not communicate: times of their steps and ready times of gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median
from typing import NamedTuple, TypeVar

from torch import Tensor

from dgc_topo.records.measurement import Phases, ProfileLayer, RecordedProfile
from dgc_topo.sizes import count_elements
from dgc_topo.training.buckets import by_module
from dgc_topo.training.clocks import BackwardClock, ReadyTimes
from dgc_topo.training.models import Task
from dgc_topo.training.overlap import OverlappedStep
from dgc_topo.training.rank import Computed, TrainingRank, compute_gradients
from dgc_topo.training.steps import AveragingStep

T = TypeVar("T")

_STEPS = 8
_SETTLING_STEPS = 2  # the first ones allocate
_PAST_WARM_UP = 1e6  # epochs: the codec is measured at its final density


class LoneStep(NamedTuple):
    """A step without communication, in seconds."""

    compute_s: float
    compress_s: float
    update_s: float


class Solo(NamedTuple):
    """Times of a worker alone (medians over its steps)."""

    step: LoneStep
    profile: RecordedProfile

    @property
    def phases(self) -> Phases:
        """Phases of a step."""
        return _phases(self.step)


class Trial(NamedTuple):
    """Steps of a worker that communicated with nobody.

    Attributes:
        steps: Its steps, without those in which it settles.
        every: Number of steps per exchange.  If there are more than one, steps with and without an
            exchange take turns.
        profile: When its gradients are complete (medians over the steps).
    """

    steps: tuple[LoneStep, ...]
    every: int
    profile: RecordedProfile

    @property
    def solo(self) -> Solo:
        """Medians over the steps."""
        return Solo(_typical(self.steps, self.every), self.profile)


def num_steps_alone(task: Task, *, overlaps: bool) -> int:
    """Return the number of steps that `train_alone` takes."""
    return _num_steps(task) * (2 if overlaps else 1)


def _num_steps(task: Task) -> int:
    return min(_STEPS, task.steps_per_epoch)


def train_alone(
    rank: TrainingRank,
    *,
    overlaps: bool = False,
    time_scale: float = 1.0,
    begin_step: Callable[[], None] = lambda: None,
) -> Trial:
    """Train for a few steps that communicate with nobody, and return them.

    Args:
        rank: One for trials: its model and its compressor are changed.
        overlaps: True if buckets are to be compressed in the backward pass, where less of what that
            takes is in a cache.
        time_scale: See `PhaseClock`.
        begin_step: Called before each step.
    """
    task, model, every = rank.task, rank.model, rank.rule.every
    model.train()
    step = AveragingStep([rank], rank.rule, None, time_scale=time_scale)
    clock = BackwardClock(rank.parameters)
    done, passes = [], []
    batches = task.batches(0)
    for number in range(_num_steps(task)):
        begin_step()
        # With an exchange and, if there are such steps, without one in turns.
        iteration = 0 if number % 2 and every > 1 else every - 1
        step.begin(iteration, _PAST_WARM_UP, rank.trial_learning_rate)
        with step.turn_of(rank), clock.watching():
            loss, pass_s = compute_gradients(
                task, model, batches, rank.loss_scale, clock.begin, time_scale=time_scale
            )
            ready_s = clock.ready_s().items()  # real, unlike the stretched pass
            passes.append({name: time_scale * seconds for name, seconds in ready_s})
        step.contribute(rank)
        done += step.apply([Computed(loss, pass_s)])
    compress_s = [record.compress_s for record in done]
    if overlaps:
        compress_s = _compress_in_pass_s(rank, time_scale, begin_step)
    steps = tuple(
        LoneStep(record.compute_s, seconds, record.update_s)
        for record, seconds in zip(_settled(done), _settled(compress_s), strict=True)
    )
    compute_s = median(step.compute_s for step in steps)
    return Trial(steps, every, make_profile(_settled(passes), rank.parameters, compute_s))


def _typical(steps: Sequence[LoneStep], every: int) -> LoneStep:
    """Return the medians of steps; of compressing, the mean over a round."""
    return LoneStep(
        compute_s=median(step.compute_s for step in steps),
        compress_s=_mean_of_round([step.compress_s for step in steps], every),
        update_s=median(step.update_s for step in steps),
    )


def _phases(step: LoneStep) -> Phases:
    return Phases.alone(**step._asdict())


def _mean_of_round(found_s: Sequence[float], every: int) -> float:
    """Return the mean over a round of what steps with and without an exchange take, in turns."""
    with_s, without_s = found_s[::2], found_s[1::2]
    if every == 1 or not without_s:
        return median(found_s)
    return (median(with_s) + (every - 1) * median(without_s)) / every


def _compress_in_pass_s(
    rank: TrainingRank, time_scale: float, begin_step: Callable[[], None]
) -> list[float]:
    """Return each step's seconds of compressing, bucket by bucket, in the backward pass."""
    step = OverlappedStep(rank, None, rank.task, time_scale=time_scale)
    batches, found = rank.task.batches(0), []
    for _ in range(_num_steps(rank.task)):
        begin_step()
        step.begin(0, _PAST_WARM_UP, rank.trial_learning_rate)
        computed = compute_gradients(
            rank.task, rank.model, batches, rank.loss_scale, time_scale=time_scale
        )
        (record,) = step.apply([Computed(*computed)])
        found.append(record.compress_s)
    return found


def _settled(done: Sequence[T]) -> Sequence[T]:
    return done[_SETTLING_STEPS:] or done


def slowest_phases(workers: Sequence[Sequence[LoneStep]]) -> Phases:
    """Return the phases of each step's slowest worker (medians over the steps).

    A sum is complete when the last worker has sent its share.  Workers that share a machine's cores
    take turns there, so that the last of them is later than most.

    Args:
        workers: Steps of each worker, which began together.
    """
    return _phases(_typical([max(step, key=sum) for step in zip(*workers, strict=True)], 1))


def mean_phases(workers: Sequence[Sequence[LoneStep]], every: int) -> Phases:
    """Return the mean over workers of their phases (medians over the steps).

    Workers that wait for each other after many steps only are all about as late then.

    Args:
        workers: Steps of each worker.
        every: See `Trial`.
    """
    found = [_typical(steps, every) for steps in workers]
    return _phases(LoneStep(*map(fmean, zip(*found, strict=True))))


def make_profile(
    passes: Sequence[ReadyTimes], parameters: Mapping[str, Tensor], compute_s: float
) -> RecordedProfile:
    """Return the profile (medians) of some passes of one worker.

    Parameters of one module are one layer, complete with the last of them.

    Args:
        passes: Ready times of each pass.
        parameters: The model's, by name.
        compute_s: Batch, forward and backward pass together.

    Raises:
        ValueError: if there are no passes.
    """
    if not passes:
        raise ValueError("profile: no passes, expected at least one")
    layers = []
    for module, names in by_module(parameters).items():
        compressible, dense = count_elements(parameters[name].shape for name in names)
        layers.append(
            ProfileLayer(
                name=module,
                ready_s=median(max(each[name] for name in names) for each in passes),
                compressible_elements=compressible,
                dense_elements=dense,
            )
        )
    layers.sort(key=lambda layer: layer.ready_s)
    return RecordedProfile(forward_s=max(compute_s - layers[-1].ready_s, 0.0), layers=tuple(layers))
