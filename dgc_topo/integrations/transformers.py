"""Hugging Face Trainer: a callback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate.optimizer import AcceleratedOptimizer
from torch.optim import Optimizer
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from dgc_topo.integrations.attachment import LOG, Attachment
from dgc_topo.topology import Topology

_FILE = "dgc-topo"  #: begins the names of the ranks' files in a checkpoint's folder


class DGCCallback(TrainerCallback):
    """Compression in a Trainer: ``trainer.add_callback(DGCCallback(trainer, "ring"))``.

    Gradients are compressed for SGD, the updates of any other optimizer (see
    `DistributedOptimizer`).

    Checkpoints get a file per process, with that process's residuals; training that goes on from a
    checkpoint in ``output_dir`` takes them up.

    Args:
        trainer: The Trainer, which wraps its model by itself.
        topology: See `DistributedOptimizer`.
        density: See `DistributedOptimizer`.
        settings: Others of `DistributedOptimizer`, by name, such as ``warm_up_steps=100``.
    """

    def __init__(
        self,
        trainer: Trainer,
        topology: Topology | str = "ring",
        density: float | str = "0.1%",
        **settings: Any,
    ) -> None:
        self._trainer = trainer
        self._topology, self._density, self._settings = topology, density, settings
        self._attachment: Attachment | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Optimizer | None = None,
        **_: Any,
    ) -> None:
        """Put a `DistributedOptimizer` into the Trainer's.

        Raises:
            ValueError: if the loss is scaled, the model is not in DistributedDataParallel (FSDP,
                DeepSpeed), or a setting is wrong.
        """
        if args.world_size == 1:
            LOG.warning("DGCCallback: one process, nothing is sent or compressed")
            return
        if not isinstance(optimizer, AcceleratedOptimizer):
            raise ValueError(  # noqa: TRY004  as everywhere
                f"DGCCallback: optimizer is {type(optimizer).__name__}, expected that of a Trainer"
            )
        if optimizer.scaler is not None:
            raise ValueError("DGCCallback: fp16 scales the loss, expected bf16=True or neither")
        checkpoint = _checkpoint(args, state) if state.global_step else None
        if self._attachment is not None and optimizer.optimizer is self._attachment.optimizer:
            self._attachment.follow(self._trainer.model_wrapped)  # trained before, and goes on
            if checkpoint is not None:
                self._attachment.load(checkpoint)
            return
        self._attachment = Attachment(
            "DGCCallback",
            self._trainer.model_wrapped,
            optimizer.optimizer,
            self._topology,
            self._density,
            self._settings,
            checkpoint,
        )
        optimizer.optimizer = self._attachment.optimizer

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Write this process's state into the checkpoint, unless it is one too many for rank 0."""
        if self._attachment is None or args.save_only_model:
            return
        checkpoint = _checkpoint(args, state)
        # Rank 0 has written it and has removed what is beyond save_total_limit, be it this one.
        stays = torch.tensor(checkpoint.parent.is_dir(), device=args.device, dtype=torch.uint8)
        dist.broadcast(stays, 0)
        if stays:
            self._attachment.save(checkpoint)


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(str(args.output_dir), f"checkpoint-{state.global_step}", _FILE)
