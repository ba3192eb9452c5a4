"""Compression of a model that a library has wrapped, and its state beside the library's checkpoint.

Libraries wrap models in DistributedDataParallel and write checkpoints on rank 0.  Here DDP's own
averaging is switched off, and a `DistributedOptimizer` takes its place.  Residuals belong to ranks:
each writes a file of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from dgc_topo.files import opened_whole
from dgc_topo.integrations.silence import keep_local
from dgc_topo.topology import Topology, load_topology
from dgc_topo.training.optimizer.distributed import STATE_KEY, DistributedOptimizer

LOG = logging.getLogger("dgc_topo.integrations")


class AttachedOptimizer(DistributedOptimizer):
    """A `DistributedOptimizer` whose library saves and loads the snapshot of one rank only.

    Attributes:
        own: Snapshot of this rank, to be loaded instead of what the library loads next.
    """

    own: Mapping[str, Any] | None = None

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """See `DistributedOptimizer.step`."""
        self.own = None
        return super().step(closure)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load this rank's own snapshot, or that of a training without compression.

        Raises:
            ValueError: if there is only one rank's snapshot for all.
        """
        if self.own is None and "place" in state_dict.get(STATE_KEY, {}):
            raise ValueError(
                "checkpoint: has what one rank had not sent, expected the files that each rank "
                "wrote beside it (names that end in -RANK.pt), and a load that finds them: "
                "accelerator.load_state, or ckpt_path= of Lightning's Trainer"
            )
        super().load_state_dict(state_dict if self.own is None else self.own)


class Attachment:
    """Compression that is attached to a wrapped model.

    Args:
        where: Name of the caller in errors.
        model: The wrapped model.
        optimizer: Its optimizer, not wrapped; not to be used directly any more.
        topology: See `DistributedOptimizer`.
        density: See `DistributedOptimizer`.
        settings: Others of `DistributedOptimizer`, by name.
        checkpoint: Where the training goes on from: see `file_of`; None for a new one.

    Attributes:
        optimizer: The optimizer to be used.

    Raises:
        ValueError: if the model is not in DistributedDataParallel, a setting is wrong, or the
            checkpoint is of another number of ranks.
    """

    def __init__(  # for three callers of ours
        self,
        where: str,
        model: nn.Module,
        optimizer: Optimizer,
        topology: Topology | str,
        density: float | str,
        settings: Mapping[str, Any],
        checkpoint: Path | None = None,
    ) -> None:
        if not isinstance(model, DistributedDataParallel):
            raise ValueError(  # noqa: TRY004  as everywhere
                f"{where}: model is {type(model).__name__}, expected DistributedDataParallel: "
                "several processes, each with a whole model"
            )
        topology = topology if isinstance(topology, Topology) else load_topology(str(topology))
        if topology.gossips:
            raise ValueError(
                f"{where}: topology {topology.label} leaves each rank its own parameters, and the "
                "library's checkpoints hold those of one, expected an all-reduce such as ring"
            )
        self._where = where
        saved = None if checkpoint is None else _read(where, checkpoint)
        self.optimizer = AttachedOptimizer(optimizer, model.module, topology, density, **settings)
        model.register_comm_hook(None, keep_local)
        if saved is not None:
            self._load(saved)

    def save(self, checkpoint: Path) -> None:
        """Write this rank's state beside a checkpoint, whole or not at all."""
        content = {"ranks": dist.get_world_size(), "optimizer": self.optimizer.state_dict()}
        path = file_of(checkpoint)
        path.parent.mkdir(parents=True, exist_ok=True)  # rank 0 may not have made it yet
        with opened_whole(path) as file:
            torch.save(content, file)

    def load(self, checkpoint: Path) -> None:
        """Go on from the state beside a checkpoint, also after the library has loaded its own."""
        saved = _read(self._where, checkpoint)
        if saved is not None:
            self._load(saved)

    def _load(self, saved: Mapping[str, Any]) -> None:
        self.optimizer.own = saved["optimizer"]
        self.optimizer.load_state_dict(saved["optimizer"])


def file_of(checkpoint: Path, rank: int | None = None) -> Path:
    """Return a rank's file beside a checkpoint, by default this rank's: ``NAME-0.pt``."""
    return checkpoint.with_name(f"{checkpoint.name}-{dist.get_rank() if rank is None else rank}.pt")


def _read(where: str, checkpoint: Path) -> dict[str, Any] | None:
    """Return this rank's state; None, and a warning, if the training before had no compression.

    Raises:
        ValueError: if another number of ranks wrote it.
    """
    first, own = file_of(checkpoint, 0), file_of(checkpoint)
    if not first.exists():
        LOG.warning("%s: no %s, so all residuals begin at zero", where, first)
        return None
    saved: dict[str, Any] = torch.load(own if own.exists() else first, weights_only=True)
    if saved["ranks"] != dist.get_world_size():
        raise ValueError(
            f"{where}: {checkpoint}-*.pt are of {saved['ranks']} ranks, expected as many as now "
            f"({dist.get_world_size()}): each has residuals of its own"
        )
    return saved
