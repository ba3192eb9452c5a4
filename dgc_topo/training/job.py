"""The `Job`: one training run's settings, as sent to the workers, and its fingerprint."""

from __future__ import annotations

import hashlib
from typing import Literal

from pydantic import BaseModel, ConfigDict
from pydantic_core import to_json

from dgc_topo.averaging import (
    DPSGD,
    Attendance,
    Averaging,
    AveragingChoice,
    Gradients,
    Updates,
)
from dgc_topo.sizes import is_sparse
from dgc_topo.topology import Topology
from dgc_topo.training.compression import CompressionSection, Method
from dgc_topo.training.settings import TrainSection
from dgc_topo.wire.coding import compression_name

GLOO = "gloo"  #: name of the backend's own all-reduce in records


class Job(BaseModel):
    """Settings of one run, the same on every rank.

    Attributes:
        scenario: Name of the scenario.
        seed: Seed of the model, the data and topologies that draw at random.
        topology: Topology to train over; of no effect on DDP's methods.
        density: Fraction of the elements that is sent.
        train: Settings of the training.
        compression: Settings of the compression.
        rung: Name of the variant, in a ladder or a benchmark.
        averaging: The averaging rule, if it is not the usual one of topology and optimizer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    scenario: str
    seed: int
    topology: Topology
    density: float
    train: TrainSection
    compression: CompressionSection
    rung: str | None = None
    averaging: AveragingChoice | None = None

    @property
    def key(self) -> str:
        """Fingerprint of all settings that decide the result; it finds the job's record again.

        Default values are left out, so that a new setting does not change the fingerprint.
        Settings that only add to the record, the other densities, and the scenario's folder are
        left out, too; the texts of the files with the user's own code count.  Records hold the
        fingerprint, so its keys (version 1) stay when a setting is renamed.
        """
        return hashlib.sha256(to_json(_settings_version_1(self))).hexdigest()[:16]

    @property
    def method(self) -> Method | Literal["dense"]:
        """Compressor at this density."""
        return self.compression.method_at(self.density)

    @property
    def rule(self) -> Averaging:
        """Averaging rule: the job's own, or the usual one of its topology and optimizer."""
        if self.averaging is not None:
            return self.averaging
        if self.topology.gossips:
            return DPSGD()
        if self.method == "dgc" and not self.train.is_sgd:
            return Updates(look_ahead=self.compression.look_ahead)
        return Gradients()

    def attendance(self, world_size: int) -> Attendance:
        """Return who takes part in which exchange, of so many ranks.

        Where ranks were lost the shares are no longer known, and the others count alike.
        """
        shares = self.train.batch_shares
        weights = shares if len(shares) == world_size else ()
        return self.rule.attendance(self.topology, world_size, self.seed, weights)

    @property
    def num_processes(self) -> int:
        """Number of worker processes."""
        return 1 if self.train.workers == "virtual" else self.train.world_size

    @property
    def bucket_bytes(self) -> float | None:
        """Float32 bytes of a bucket that is sent in the backward pass; None for one after it."""
        if self.compression.uses_ddp or self.rule.is_local:
            return None
        return self.train.bucket_bytes

    @property
    def compressor_name(self) -> str:
        """Name of the compression in records."""
        if self.method not in {"dense", "dgc"}:
            return self.method
        if self.rule.is_local and is_sparse(self.density):
            return "updates"
        return compression_name(self.density, self.compression.wire_dtype)

    @property
    def label(self) -> str:
        """Topology and density, for progress bars and errors."""
        density = f"density {self.density:g}" if is_sparse(self.density) else self.compressor_name
        if is_sparse(self.density) and self.rule.compresses and self.compressor_name != "dgc":
            density = f"{self.compressor_name}, {density}"
        topology = GLOO if self.compression.uses_ddp else self.topology.label
        if self.averaging is not None:
            density = f"{self.averaging.label}, {density}"
        if self.rung is None:
            return f"{topology}, {density}"
        return f"{self.rung}, {density}, {self.train.world_size} x {topology}, seed {self.seed}"


def _settings_version_1(job: Job) -> dict[str, object]:
    """Return the settings in the fingerprint, in the order and with the names of version 1."""
    train, compression, options = job.train, job.compression, job.topology.plain_options
    settings: dict[str, object] = {
        "seed": job.seed,
        "topology": {"name": job.topology.name} | ({"options": options} if options else {}),
        "density": job.density,
        "train": _but_defaults(
            dataset=(train.dataset, None),
            data_path=(train.data_path, None),
            model=(train.model, None),
            loss=(train.loss, None),
            options=(train.options, {}),
            code=(train.code, {}),
            world_size=(train.world_size, None),
            batch_size_per_worker=(train.batch_size_per_worker, None),
            batch_shares=(train.batch_shares, ()),
            epochs=(train.epochs, None),
            max_steps_per_epoch=(train.max_steps_per_epoch, None),
            label_skew=(train.label_skew, None),
            optimizer=(train.optimizer, "sgd"),
            optimizer_options=(train.optimizer_options, {}),
            learning_rate=(train.learning_rate, None),
            learning_rate_decay=(train.learning_rate_decay, "constant"),
            learning_rate_options=(train.learning_rate_options, {}),
            learning_rate_warm_up_epochs=(train.learning_rate_warm_up_epochs, 0.0),
            momentum=(train.momentum, 0.9),
            nesterov=(train.nesterov, False),
            weight_decay=(train.weight_decay, 0.0),
            clip_norm=(train.clip_norm, None),
            overlap=(train.overlap, False),
            bucket_mib=(train.bucket_mib, None),
            device=(train.device, "auto"),
            backend=(train.backend, "auto"),
            workers=(train.workers, "processes"),
            on_lost_rank=(train.on_lost_rank, "stop"),
            timeout_s=(train.timeout_s, 60.0),
        ),
        "compression": _but_defaults(
            method=(compression.method, "dgc"),
            wire_dtype=(compression.wire_dtype, "float32"),
            index_encoding=(compression.index_encoding, "auto"),
            warm_up=(compression.warm_up, "paper"),
            warm_up_epochs=(compression.warm_up_epochs, 4.0),
            selection=(compression.selection, "reused"),
            scope=(compression.scope, "layer"),
            merge=(compression.merge, "union"),
            balance=(compression.balance, False),
            sums=(_version_of_sums(compression), 1),
            accumulation=(compression.accumulation, True),
            momentum_correction=(compression.momentum_correction, True),
            clipping=(compression.clipping, True),
            masking=(compression.masking, True),
            clear_velocities=(compression.clear_velocities, "never"),
            clear_every_steps=(compression.clear_every_steps, 1000),
            weight_decay_mode=(compression.weight_decay_mode, "local"),
            look_ahead=(compression.look_ahead, 0.5),
            powersgd_rank=(compression.powersgd_rank, 1),
            powersgd_start_step=(compression.powersgd_start_step, 10),
        ),
    }
    if job.averaging is not None:
        settings["averaging"] = str(job.averaging)
        if job.averaging.code is not None:
            settings["averaging_code"] = job.averaging.code.digest
    return settings if job.rung is None else {**settings, "rung": job.rung}


def _version_of_sums(compression: CompressionSection) -> int:
    """Return 2 where sums mean something else than in records of the same settings before.

    Re-selection once followed the exact sum, and then kept equal slices' shares; balance once took
    the places of exact sums from the steps before.
    """
    return 2 if compression.merge != "union" or compression.balance else 1


def _but_defaults(**settings: tuple[object, object]) -> dict[str, object]:
    """Return the settings that differ from their defaults; each is given as (value, default)."""
    return {key: value for key, (value, default) in settings.items() if value != default}
