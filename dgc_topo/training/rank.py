"""One rank of a training in this process: its data, model, compressor and step records."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dgc_topo.compression.accumulation import Staleness
from dgc_topo.sizes import is_sparse
from dgc_topo.training.averaging.base import Averager, Setup
from dgc_topo.training.averaging.gradients import GradientAverager
from dgc_topo.training.averaging.making import local_averager
from dgc_topo.training.averaging.own_moves import OwnMove, own_move_of
from dgc_topo.training.buckets import Buckets, buckets_of, move_of
from dgc_topo.training.checks import check_loss
from dgc_topo.training.clocks import PhaseClock
from dgc_topo.training.job import Job
from dgc_topo.training.learning import learning_task, shard_of
from dgc_topo.training.models import Batch, EmulatedTask, LearningTask, Score, Task
from dgc_topo.training.randoms import Randoms
from dgc_topo.zoo import load_model


class Computed(NamedTuple):
    """Result of a rank's forward and backward pass; the defaults are those of a server.

    Attributes:
        loss: Mean over the batch.
        pass_s: Seconds of batch, forward and backward pass, with all that held it up.
        interface_bytes: Bytes that the interface had sent when the step began, if known.
    """

    loss: float = 0.0
    pass_s: float = 0.0
    interface_bytes: float = math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """Everything that one rank did in one step; times in seconds.

    Attributes:
        compute_s: Batch, forward and backward pass.
        compress_s: Compressing the gradient, and making the update of what was summed.
        communicate_s: Packing, sending and merging.
        wait_s: Waiting for peers.
        update_s: Moving the parameters.
        others_s: Turns of the other ranks of this process.
        bytes_sent: Bytes of all messages.
        messages_sent: Their number; None if the backend does not tell.
        encoded_bytes: Bytes of its own gradient as encoded.
        entries: Number of entries in the sparse parts of its own gradient.
        merged_entries: Number of entries in those of the sum.
        density: Fraction of the compressed elements that it was to send.
        loss: See `Computed`.
        interface_bytes: See `Computed`.
    """

    compute_s: float
    compress_s: float
    communicate_s: float
    wait_s: float
    update_s: float
    others_s: float = 0.0
    bytes_sent: float
    messages_sent: float | None
    encoded_bytes: float
    entries: float = 0.0
    merged_entries: float = 0.0
    density: float
    loss: float
    interface_bytes: float

    @property
    def total_s(self) -> float:
        """Duration of the whole step."""
        own = self.compute_s + self.compress_s + self.communicate_s + self.wait_s + self.update_s
        return own + self.others_s


FIELDS = tuple(field.name for field in fields(StepRecord))


class TrainingRank:
    """One rank, with all state of its own.

    Args:
        job: The job.
        rank: Its number.
        contributors: The ranks that train; any other only serves.
        device: Where it computes.
        parameters: Those to share with other ranks of this process; its own by default.
        task: Its task; made from the job by default.

    Attributes:
        rank: Its number.
        trains: False for a dedicated server.
        place: Its number among the ranks that train.  A server holds the first one's place, for
            the shapes of things; it draws no batch.
        num_workers: Number of ranks that train.
        task: Its part of the training.
        model: Its model.
        parameters: The model's, by name.
        rule: The job's averaging rule.
        averager: Its side of it.
        buckets: Parts of the gradient that is summed, each with its compressor; none where the
            rank's own optimizer takes the gradient.
        move: Moves the parameters by what came back from the sum.
        own: Its own optimizer, where gradients are not summed.
        loss_scale: Factor of the loss before the backward pass.
        trial_learning_rate: Learning rate of steps that only take times.
        randoms: Random numbers of its model.
        records: Records of its steps, so far.
    """

    def __init__(
        self,
        job: Job,
        rank: int,
        contributors: Sequence[int],
        device: torch.device,
        *,
        parameters: Mapping[str, nn.Parameter] | None = None,
        task: Task | None = None,
    ) -> None:
        self.rank, self.trains = rank, rank in contributors
        self.place = contributors.index(rank) if self.trains else 0
        self.records: list[StepRecord] = []
        self._job, self._contributors, self._device = job, contributors, device
        self.num_workers = num_workers = len(contributors)
        self._part, self._num_parts, self._epoch = self.place, num_workers, 0.0
        self.task = task or task_of(job, self.place, num_workers, device)
        self.model = self.task.build_model()
        if parameters is not None:
            _adopt(self.model, parameters)
        self.parameters = dict(self.model.named_parameters())
        self.rule, self.move = job.rule, move_of(job, self.parameters)
        self.own = own_move_of(job, self.parameters) if job.rule.is_local else None
        self.buckets = (
            Buckets(()) if self.own else buckets_of(job, self.parameters, self.place, num_workers)
        )
        self.averager = self._averager()
        # Gradients sum to their mean; where none are summed, or DDP takes the mean, they are whole.
        whole = job.rule.is_local or job.compression.uses_ddp
        sizes = job.train.batch_sizes(num_workers)
        self.loss_scale = 1.0 if whole else sizes[self.place] / sum(sizes)
        # With a rate of 0 the optimizer's steps would have no largest elements to select.
        changes = job.rule.sends == "changes"
        self.trial_learning_rate = job.train.learning_rate if changes else 0.0
        self.randoms = Randoms(job.seed, self.place, device)
        self._batches: Iterator[Batch] = iter(())

    @property
    def all_samples(self) -> float:
        """Images or tokens of all workers per step."""
        sizes = self._job.train.batch_sizes(self.num_workers)
        return self.task.batch_samples * sum(sizes) / sizes[self.place]

    def renumber(self, rank: int, num_ranks: int) -> None:
        """Go on as one of fewer ranks; it keeps its part of the training data."""
        self.rank = self._part = rank
        self._num_parts = num_ranks

    def throw_away_copy(self) -> TrainingRank:
        """Return a rank with the same task and a new model, for trials."""
        return TrainingRank(self._job, self.rank, self._contributors, self._device, task=self.task)

    def _averager(self) -> Averager:
        job = self._job
        if self.own is None:
            return GradientAverager(self.parameters, self.buckets, self.move, trains=self.trains)
        sizes = job.train.batch_sizes(self.num_workers)
        setup = Setup(
            num_workers=self.num_workers,
            config=job.compression.dgc_config(job.density, job.train),
            trains=self.trains,
            place=self.place,
            seed=job.seed,
            weight=sizes[self.place] * len(sizes) / sum(sizes),
            goal=job.topology.goal,
        )
        return local_averager(job.rule, self.parameters, self.own, setup)

    def set_progress(self, epoch: float, learning_rate: float) -> None:
        """Set the position of the next step, in epochs, and its learning rate."""
        self._epoch = epoch
        self.buckets.set_progress(epoch)
        for moving in (self.own, self.averager):
            if isinstance(moving, OwnMove | GradientAverager):
                moving.learning_rate = learning_rate

    @property
    def density(self) -> float:
        """Fraction of the compressed elements that is sent at the current progress."""
        if self.own is None:
            return self.buckets.density
        job = self._job
        if not is_sparse(job.density):
            return 1.0
        config = job.compression.dgc_config(job.density, job.train)
        return config.density_schedule().density_at(self._epoch)

    def begin_epoch(self, epoch: int, start: int = 0) -> None:
        """Begin with the epoch's batch number *start*."""
        self.model.train()
        if self.trains:
            self._batches = self.task.batches(epoch, start)

    def compute(
        self,
        forward: nn.Module | None,
        iteration: int,
        time_scale: float = 1.0,
        interface_bytes: float = math.nan,
    ) -> Computed:
        """Leave the next batch's gradient in the parameters, if the rank trains.

        Args:
            forward: Module that the forward pass has to go through, if not the model itself.
            iteration: Number of the step, for errors.
            time_scale: See `PhaseClock`.
            interface_bytes: See `Computed`.

        Raises:
            DivergedError: if the loss is not finite.
        """
        if not self.trains:
            return Computed(interface_bytes=interface_bytes)
        model = forward or self.model
        with self.randoms:
            loss, pass_s = compute_gradients(
                self.task, model, self._batches, self.loss_scale, time_scale=time_scale
            )
        check_loss(self._job, loss, self.rank, iteration)
        return Computed(loss, pass_s, interface_bytes)

    def evaluate(self, task: LearningTask, model: nn.Module, *, whole: bool = False) -> Score:
        """Return the score of *model* on this rank's part of the test set, or on all of it."""
        if not self.trains:
            return Score(task.metric, 0.0, 0)
        with self.randoms:  # samples of the user's own may be drawn at random
            if whole:
                return task.evaluate(model)
            return task.evaluate(model, part=self._part, num_parts=self._num_parts)

    def staleness(self) -> Staleness | None:
        """Return the steps that elements waited; None for a server, or if none can wait."""
        return self.buckets.staleness() if self.trains else None


def compute_gradients(
    task: Task,
    model: nn.Module,
    batches: Iterator[Batch],
    scale: float,
    before_backward: Callable[[], None] = lambda: None,
    *,
    time_scale: float = 1.0,
) -> tuple[float, float]:
    """Leave the next batch's scaled gradient in the parameters.

    Args:
        task: For its loss.
        model: The model that is trained.
        batches: Source of the next batch.
        scale: Factor of the gradient.
        before_backward: Called between the two passes.
        time_scale: See `PhaseClock`.

    Returns:
        The unscaled loss, and the seconds that batch, forward and backward pass took.
    """
    clock = PhaseClock(task.device, time_scale, task.worked_s)
    batch = next(batches)
    model.zero_grad(set_to_none=True)
    loss: Tensor = task.loss(model, batch)
    before_backward()
    (loss * scale).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return float(loss.item()), clock.lap()


def task_of(job: Job, place: int, num_workers: int, device: torch.device) -> Task:
    """Return the task of the worker at *place* (from 0, among those that train)."""
    train = job.train
    shard = shard_of(train, job.seed, place, num_workers)
    if not train.emulates:
        return learning_task(train, shard, device)
    model = load_model(train.model).at_batch(shard.batch_size)
    compute_s = model.compute_s
    if "compute_s" in train.options:
        share = shard.batch_size / train.batch_size_per_worker
        compute_s = share * float(train.options["compute_s"])
    assert train.max_steps_per_epoch is not None
    return EmulatedTask(shard, device, model, compute_s, train.max_steps_per_epoch)


def _adopt(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> None:
    """Make *model* compute with *parameters* instead of its own, also where it shares some."""
    own = {id(parameter): name for name, parameter in model.named_parameters()}
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        path, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(path), attribute, parameters[own[id(parameter)]])
