"""Section ``[train]`` of a scenario, and the timetable of its steps and learning rates."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from dgc_topo.logs.opening import LOGS
from dgc_topo.python_files import split_name
from dgc_topo.tables.keys import OVERLAP, BucketMiB, EachOnce, bucket_bytes_of
from dgc_topo.tables.places import AnyPath
from dgc_topo.topology import OptionValue
from dgc_topo.training.learning_rates import DECAYS, factor_at, torch_rates
from dgc_topo.training.optimizer_settings import OptimizerKeys
from dgc_topo.training.own_code import Digests, check_of, is_own, schema_of
from dgc_topo.zoo import known_models

EMULATED = "emulated"

DATASETS = (
    "fashion-mnist-subset",
    "fashion-mnist",
    "austen",
    "cifar10",
    "cifar100",
    "image-folder",
    EMULATED,
)
MODELS = ("cnn", "mlp", "resnet20", "resnet56", "resnet110", "char-lstm", *known_models())

DatasetName = Annotated[
    str, AfterValidator(check_of(DATASETS)), Field(json_schema_extra=schema_of(DATASETS))
]
ModelName = Annotated[
    str, AfterValidator(check_of(MODELS)), Field(json_schema_extra=schema_of(MODELS))
]
LogName = Annotated[str, AfterValidator(check_of(LOGS)), Field(json_schema_extra=schema_of(LOGS))]
OwnName = Annotated[str, AfterValidator(check_of(())), Field(json_schema_extra=schema_of(()))]

_EXPECTED = f"with dataset {EMULATED!r} expected"


class TrainSection(OptimizerKeys):
    """Model, data and optimizer of a training, and its workers."""

    dataset: DatasetName = Field(
        description="emulated: no data; a worker waits as long as a model of the zoo computes, and "
        "sends gradients of its shapes; or file.py:NAME, a function that returns what to learn "
        "and what to test on, each a pair of tensors or a torch data set"
    )
    data_path: AnyPath | None = Field(
        default=None, description="folder of a data set of your own, relative to the scenario"
    )
    model: ModelName = Field(
        description="of the zoo if emulated, else one that learns; or file.py:NAME, a module's "
        "class or a function that returns a module"
    )
    loss: OwnName | None = Field(
        default=None,
        description="file.py:NAME, a function of outputs and targets that returns their mean loss; "
        "without it, classes are learnt by cross-entropy; needs a dataset of your own",
    )
    options: dict[str, OptionValue] = Field(
        default_factory=dict,
        description="of model, data and task, such as hidden_size, augment, bptt, or what your own "
        "functions take; if emulated, only "
        "compute_s: seconds of forward and backward pass, by default those of the zoo",
    )
    code: Digests = Field(default_factory=dict)
    world_size: int = Field(ge=1, le=1024, description="ranks, dedicated servers included")
    batch_size_per_worker: int = Field(ge=1, description="samples, or streams of text")
    batch_shares: tuple[Annotated[int, Field(ge=1, le=10**6)], ...] = Field(
        default=(),
        description="of unequal workers, such as [2, 2, 1] where the third is half as fast: the "
        "largest takes batch_size_per_worker, each counts as much as its batch; equal by default",
    )
    epochs: int = Field(ge=1, description="passes through the data, an evaluation after each")
    max_steps_per_epoch: int | None = Field(
        default=None, ge=1, description="for quick trials; needed if emulated"
    )
    label_skew: float | None = Field(
        default=None,
        gt=0,
        description="concentration of a Dirichlet distribution by which classes are divided among "
        "workers once for all: 100 is nearly even, 0.1 a class or two for each; without it, each "
        "epoch shuffles all samples over all workers",
    )
    evaluate_ranks: bool = Field(
        default=False,
        description="where each rank has parameters of its own, as in gossip: measure the quality "
        "of every rank's model as well, each on the whole test set",
    )
    overlap: bool = Field(
        default=False, description=f"{OVERLAP}; DDP always does, and gossip never"
    )
    bucket_mib: BucketMiB = None
    checkpoint_every: Annotated[int, Field(ge=1)] | Literal["epoch", "never"] = Field(
        default="epoch",
        description="steps between checkpoints in the results folder, or after each epoch; a "
        "training that learns nothing makes none",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="of model and batches; auto: a GPU where there is one"
    )
    backend: Literal["auto", "gloo", "nccl"] = Field(
        default="auto", description="that carries messages; auto: NCCL if each rank has a GPU"
    )
    workers: Literal["processes", "virtual"] = Field(
        default="processes",
        description="virtual: all in one process, with the same results but no times of a cluster",
    )
    log: Annotated[tuple[LogName, ...], EachOnce] = Field(
        default=(),
        description="of every step, in the results folder under logs/: csv, tensorboard, wandb, or "
        "file.py:NAME, a class with a method on_step(step); see dgc_topo.logs",
    )
    on_lost_rank: Literal["stop", "continue"] = Field(
        default="stop",
        description="continue, for gossip only: the other ranks mix on without a rank that is "
        "killed or frozen, on CPUs, where 'dgc-topo train' or 'compare' started them",
    )
    timeout_s: float = Field(
        default=60.0,
        gt=0,
        description="last resort: a peer that lives, but does not answer, is an error after this",
    )

    @property
    def data_folder(self) -> Path | None:
        """Folder of the data set, if it is one of the user's own."""
        return None if self.data_path is None else Path(self.folder, self.data_path)

    @property
    def own_files(self) -> tuple[str, ...]:
        """Paths, as written, of the Python files that it names."""
        names = (self.dataset, self.model, self.loss, self.optimizer, *self.log)
        found = [split_name(name or "") for name in names]
        return tuple(dict.fromkeys(each[0] for each in found if each))

    @property
    def needs_trial(self) -> bool:
        """True if something in it can only be checked with torch."""
        own = self.own_files or self.optimizer_options or self.learning_rate_options
        return bool(
            own or self.learning_rate_decay not in DECAYS or (self.options and not self.emulates)
        )

    @property
    def emulates(self) -> bool:
        """True if nothing is computed or learnt."""
        return self.dataset == EMULATED

    @property
    def largest_place(self) -> int:
        """Number of the first worker with the largest batch."""
        return self.batch_shares.index(max(self.batch_shares)) if self.batch_shares else 0

    def batch_sizes(self, num_workers: int) -> tuple[int, ...]:
        """Return the batch of each worker.

        Raises:
            ValueError: if there are not so many shares.
        """
        if not self.batch_shares:
            return (self.batch_size_per_worker,) * num_workers
        if len(self.batch_shares) != num_workers:
            raise ValueError(
                f"batch_shares = {list(self.batch_shares)}: expected {num_workers}, one per worker"
            )
        largest = max(self.batch_shares)
        return tuple(self.batch_size_per_worker * share // largest for share in self.batch_shares)

    @property
    def bucket_bytes(self) -> float | None:
        """Float32 bytes of a bucket; None for one bucket after the backward pass."""
        return bucket_bytes_of(overlap=self.overlap, bucket_mib=self.bucket_mib)

    @model_validator(mode="after")
    def _batches_are_whole(self) -> Self:
        largest = max(self.batch_shares, default=1)
        for share in self.batch_shares:
            if self.batch_size_per_worker * share % largest:
                raise ValueError(
                    f"batch_shares: {share} of {largest} of batch_size_per_worker = "
                    f"{self.batch_size_per_worker} is no whole number of samples, expected one"
                )
        if len(self.batch_shares) > self.world_size:
            raise ValueError(
                f"batch_shares: {len(self.batch_shares)} of them, expected one per worker of "
                f"world_size = {self.world_size}"
            )
        if self.batch_shares and self.label_skew is not None:
            raise ValueError(
                "batch_shares with label_skew: samples are divided among workers in equal parts, "
                "expected one without the other"
            )
        if self.batch_shares and self.clip_norm is not None:
            raise ValueError(
                "batch_shares with clip_norm: each worker's gradient is clipped as one of equal "
                "parts, expected one without the other"
            )
        return self

    @model_validator(mode="after")
    def _can_overlap(self) -> Self:
        bucket_bytes_of(overlap=self.overlap, bucket_mib=self.bucket_mib)
        if self.overlap and self.clip_norm is not None:
            raise ValueError(
                "clip_norm with overlap = true: the gradient's norm is known only when the "
                "backward pass is over, expected one without the other"
            )
        return self

    @model_validator(mode="after")
    def _dataset_fits_model(self) -> Self:
        zoo = known_models()
        if self.loss is not None and not is_own(self.dataset):
            raise ValueError(
                f"loss with dataset {self.dataset!r}: it has one of its own, expected a dataset "
                "of your own (file.py:NAME)"
            )
        if self.emulates and is_own(self.model):
            raise ValueError(
                f"model {self.model!r} with dataset {EMULATED!r}: expected a model of the zoo: "
                f"{', '.join(zoo)}"
            )
        if is_own(self.model):
            return self
        if is_own(self.dataset) and self.model == "char-lstm":
            raise ValueError(
                "model 'char-lstm' is for text ('austen'), expected a model of your own "
                "(file.py:NAME), or one for images"
            )
        if self.emulates != (self.model in zoo):
            raise ValueError(
                f"model {self.model!r} does not go with dataset {self.dataset!r}: models of the "
                f"zoo ({', '.join(zoo)}) are for {EMULATED!r}, and only they are"
            )
        if not self.emulates and (self.dataset == "austen") != (self.model == "char-lstm"):
            raise ValueError(
                f"model {self.model!r} cannot learn {self.dataset!r}: 'char-lstm' is for text "
                "('austen'), the other models are for images"
            )
        return self

    @model_validator(mode="after")
    def _has_labels(self) -> Self:
        if self.label_skew is not None and self.dataset in {"austen", EMULATED}:
            raise ValueError(
                f"label_skew with dataset {self.dataset!r}: it has no classes, expected images or "
                "data of your own with classes"
            )
        return self

    @model_validator(mode="after")
    def _can_be_emulated(self) -> Self:
        if not self.emulates:
            return self
        unknown = sorted(self.options.keys() - {"compute_s"})
        if unknown:
            raise ValueError(f"options: unknown {', '.join(unknown)}, {_EXPECTED} only compute_s")
        compute_s = self.options.get("compute_s", 1.0)
        if type(compute_s) not in {int, float} or not 0 < float(compute_s) < math.inf:
            raise ValueError(f"options.compute_s = {compute_s!r}: {_EXPECTED} seconds above 0")
        if self.max_steps_per_epoch is None:
            raise ValueError(f"max_steps_per_epoch: missing, {_EXPECTED} one: there is no data")
        if self.data_path is not None:
            raise ValueError(f"data_path: {_EXPECTED} none")
        if self.workers != "processes":
            raise ValueError(
                f"workers = {self.workers!r}: {_EXPECTED} 'processes': times are all there is to it"
            )
        return self


class Timetable:
    """The steps of a training, counted from 0 over all epochs.

    Args:
        train: The number of epochs, and perhaps a limit of their steps.
        steps_of_data: Number of steps that go through the data once.

    Attributes:
        num_epochs: Number of epochs.
        steps_per_epoch: Number of steps in each.
        num_steps: Number of steps in all.
    """

    def __init__(self, train: TrainSection, steps_of_data: int) -> None:
        self._train = train
        limit = train.max_steps_per_epoch
        self.num_epochs = train.epochs
        self.steps_per_epoch = steps_of_data if limit is None else min(steps_of_data, limit)
        self.num_steps = self.steps_per_epoch * self.num_epochs

    def steps(self, epoch: int) -> range:
        """Return the steps of an *epoch*, counted from 0."""
        return range(epoch * self.steps_per_epoch, (epoch + 1) * self.steps_per_epoch)

    def epochs_before(self, step: int) -> float:
        """Return the epochs done before a step, fractions included."""
        return step / self.steps_per_epoch

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate in a step."""
        train = self._train
        rate, name = train.learning_rate, train.learning_rate_decay
        options, warm_up = train.learning_rate_options, train.learning_rate_warm_up_epochs
        if name in DECAYS:
            rate *= factor_at(name, options, step, self.num_steps, self.epochs_before(step))
        else:
            rate = torch_rates(name, options, rate, self.num_steps)[step]
        # The first step has a share of it, the last one of the warm-up all of it.
        rising = (step + 1) / (warm_up * self.steps_per_epoch) if warm_up else 1.0
        return rate * min(rising, 1.0)
