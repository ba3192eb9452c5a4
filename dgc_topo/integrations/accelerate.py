"""Hugging Face Accelerate: one call after ``accelerator.prepare``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import nn
from torch.optim import Optimizer

from dgc_topo.integrations.attachment import LOG, Attachment
from dgc_topo.topology import Topology

_FILE = "dgc-topo"  #: begins the names of the ranks' files in a checkpoint's folder


def compress(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: Optimizer,
    topology: Topology | str = "ring",
    density: float | str = "0.1%",
    **settings: Any,
) -> None:
    """Compress what a prepared model's ranks send; every process calls this after ``prepare``.

    Gradients are compressed for SGD, the updates of any other optimizer (see
    `DistributedOptimizer`).  ``accelerator.save_state`` and ``load_state`` take the state of each
    process along, a file each.

    Args:
        accelerator: The accelerator.
        model: The model, as ``accelerator.prepare`` returned it.
        optimizer: The optimizer, likewise.
        topology: See `DistributedOptimizer`.
        density: See `DistributedOptimizer`.
        settings: Others of `DistributedOptimizer`, by name, such as ``warm_up_steps=100``.

    A single process trains on as it is: it has nobody to send to.

    Raises:
        ValueError: if the model is not data parallel (FSDP, DeepSpeed), or a setting is wrong.
    """
    if accelerator.num_processes == 1:
        LOG.warning("accelerate: one process, nothing is sent or compressed")
        return
    if not isinstance(optimizer, AcceleratedOptimizer):
        raise ValueError(  # noqa: TRY004  as everywhere
            f"accelerate: optimizer is {type(optimizer).__name__}, expected what "
            "accelerator.prepare returned"
        )
    if accelerator.scaler is not None:
        raise ValueError("accelerate: mixed_precision fp16 scales the loss, expected bf16 or none")
    attachment = Attachment("accelerate", model, optimizer.optimizer, topology, density, settings)
    optimizer.optimizer = attachment.optimizer

    def save(_models: object, _weights: object, folder: str) -> None:
        for name in _names(accelerator, optimizer):
            attachment.save(Path(folder, name))

    def load(_models: object, folder: str) -> None:
        for name in _names(accelerator, optimizer):
            attachment.load(Path(folder, name))

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)


def _names(accelerator: Accelerator, optimizer: Optimizer) -> Iterator[str]:
    """Yield what begins the names of an optimizer's files; nothing if the accelerator let it go.

    They are numbered as Accelerate numbers its own.
    """
    for number, prepared in enumerate(accelerator._optimizers):  # noqa: SLF001  # nothing public
        if prepared is optimizer:
            yield f"{_FILE}_{number}" if number else _FILE
