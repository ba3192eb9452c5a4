"""Compression of a model that a library has wrapped, and its state beside the library's checkpoint.

Libraries wrap models in DistributedDataParallel and write checkpoints on rank 0.  Here DDP's own
averaging is switched off, and a `DistributedOptimizer` takes its place.  Residuals belong to ranks:
each writes a file of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from dgc_topo.averaging import load_averaging
from dgc_topo.integrations.silence import keep_local
from dgc_topo.topology import Topology, load_topology
from dgc_topo.training.checkpoints.errors import CheckpointError
from dgc_topo.training.checkpoints.file import read_file, write_file
from dgc_topo.training.checkpoints.plain import plain
from dgc_topo.training.optimizer.distributed import STATE_KEY, DistributedOptimizer

LOG = logging.getLogger("dgc_topo.integrations")


class AttachedOptimizer(DistributedOptimizer):
    """A `DistributedOptimizer` whose library saves and loads the snapshot of one rank only.

    Attributes:
        own: Snapshot of this rank, to be loaded instead of what the library loads next.
    """

    #: Scalers are refused here; Lightning clips only where this is not said.
    _step_supports_amp_scaling = False

    own: Mapping[str, Any] | None = None
    _lacks_own = False  # True if the library has loaded one rank's snapshot for all

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """See `DistributedOptimizer.step`.

        Raises:
            ValueError: if only one rank's snapshot was loaded for all.
        """
        if self._lacks_own:
            raise ValueError(
                "checkpoint: has what one rank had not sent, expected the files that each rank "
                "wrote beside it (names that end in -RANK.pt)"
            )
        self.own = None
        return super().step(closure)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load this rank's own snapshot, or that of a training without compression.

        That of one rank is not loaded: this rank's own has to follow before the next step.
        """
        self._lacks_own = self.own is None and "place" in state_dict.get(STATE_KEY, {})
        if not self._lacks_own:
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
        ValueError: if the model is not in DistributedDataParallel, a setting is wrong, or a file
            of the checkpoint is missing.
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
        averaging = settings.get("averaging")
        if averaging is not None and load_averaging(averaging).is_local:
            raise ValueError(
                f"{where}: averaging {averaging} leaves each rank its own parameters, and the "
                "library's checkpoints hold those of one, expected none, or a loop of your own "
                "with dt.DistributedOptimizer"
            )
        self._where = where
        states = () if checkpoint is None else _read(where, checkpoint)
        self.optimizer = AttachedOptimizer(optimizer, model.module, topology, density, **settings)
        self._model: nn.Module | None = None
        self.follow(model)
        self._load(states)

    def follow(self, model: nn.Module) -> None:
        """Switch DDP's own averaging off, also where a library has wrapped the model again."""
        if model is not self._model:
            model.register_comm_hook(None, keep_local)  # type: ignore[operator]
            self._model = model

    def save(self, checkpoint: Path) -> None:
        """Write this rank's state beside a checkpoint, whole or not at all.

        Raises:
            WriteError: if the disk refuses.
        """
        content = {"ranks": dist.get_world_size(), "optimizer": self.optimizer.state_dict()}
        path = file_of(checkpoint)
        path.parent.mkdir(parents=True, exist_ok=True)  # rank 0 may not have made it yet
        write_file(path, plain("optimizer", content))

    def load(self, checkpoint: Path) -> None:
        """Go on from the state beside a checkpoint, also after the library has loaded its own.

        Raises:
            ValueError: if a file is missing or broken, or the state does not fit.
        """
        self._load(_read(self._where, checkpoint))

    def _load(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Load this rank's state, or its share of those of another number of ranks."""
        if not states:
            return
        rank, world_size = dist.get_rank(), dist.get_world_size()
        if len(states) == world_size:
            own = states[rank]
        else:
            own = self.optimizer.state_for(states, rank, world_size)
        self.optimizer.own = own
        self.optimizer.load_state_dict(own)


def file_of(checkpoint: Path, rank: int | None = None) -> Path:
    """Return a rank's file beside a checkpoint, by default this rank's: ``NAME-0.pt``."""
    place = checkpoint.resolve()  # a link to another checkpoint has no files of its own
    return place.with_name(f"{place.name}-{dist.get_rank() if rank is None else rank}.pt")


def _read(where: str, checkpoint: Path) -> Sequence[Mapping[str, Any]]:
    """Return the states of all ranks, of which this one's alone is read where it is enough.

    Nothing, and a warning, if the training before had no compression.

    Raises:
        ValueError: naming a file that is missing.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    found = [each for each in (file_of(checkpoint), file_of(checkpoint, 0)) if each.exists()]
    if not found:
        LOG.warning("%s: no %s, so all residuals begin at zero", where, file_of(checkpoint, 0))
        return ()
    number: int = _content(found[0])["ranks"]
    needed = [rank] if number == world_size else range(number)
    missing = [
        file_of(checkpoint, each) for each in needed if not file_of(checkpoint, each).exists()
    ]
    if missing:
        raise ValueError(
            f"{where}: {missing[0]} is missing, expected a file of each of {number} ranks, with "
            "what it had not sent; where they are on several machines, as many ranks as before"
        )
    states = {each: _content(file_of(checkpoint, each))["optimizer"] for each in needed}
    return [states.get(each, {}) for each in range(number)]


def _content(file: Path) -> dict[str, Any]:
    content = read_file(file)
    if not isinstance(content, dict) or content.keys() != {"ranks", "optimizer"}:
        raise CheckpointError(f"{file}: is no state of one rank, expected one")
    return content
