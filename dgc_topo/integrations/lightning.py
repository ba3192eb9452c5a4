"""Lightning: a strategy for its Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from dgc_topo.integrations.attachment import Attachment, file_of
from dgc_topo.topology import Topology


class DGCStrategy(DDPStrategy):
    """DDP that sends compressed: ``Trainer(strategy=DGCStrategy("butterfly"))``.

    Gradients are compressed for SGD, the updates of any other optimizer (see
    `DistributedOptimizer`).  Checkpoints of the Trainer get a file per process beside them, with
    that process's residuals.

    Args:
        topology: See `DistributedOptimizer`.
        density: See `DistributedOptimizer`.
        warm_up_steps: See `DistributedOptimizer`.
        settings: Others of `DistributedOptimizer`, by name, such as ``{"seed": 1}``.
        ddp: Arguments of ``DDPStrategy``.

    Raises:
        ValueError: if *ddp* has a communication hook of its own.
    """

    def __init__(
        self,
        topology: Topology | str = "ring",
        density: float | str = "0.1%",
        warm_up_steps: int = 0,
        settings: Mapping[str, Any] | None = None,
        **ddp: Any,
    ) -> None:
        taken = sorted({"ddp_comm_hook", "ddp_comm_state", "ddp_comm_wrapper"} & set(ddp))
        if taken:
            raise ValueError(f"DGCStrategy: {taken[0]}, expected none: the strategy has its own")
        super().__init__(**ddp)
        self._topology, self._density, self._settings = (
            topology,
            density,
            {
                **(settings or {}),
                "warm_up_steps": warm_up_steps,
            },
        )
        self._attachment: Attachment | None = None
        self._came_from: Path | None = None

    def setup(self, trainer: Trainer) -> None:
        """Wrap the model, and its optimizer if it is to be trained.

        Raises:
            ValueError: if the model has several optimizers, or a setting is wrong.
        """
        super().setup(trainer)
        came_from, self._came_from = self._came_from, None  # that of this run alone
        if not isinstance(self.model, DistributedDataParallel):
            return
        optimizers: list[Optimizer] = super().optimizers
        if len(optimizers) != 1:
            raise ValueError(f"DGCStrategy: {len(optimizers)} optimizers, expected one")
        if getattr(self.precision_plugin, "scaler", None) is not None:
            raise ValueError("DGCStrategy: precision 16-mixed scales the loss, expected bf16-mixed")
        self._attachment = Attachment(
            "DGCStrategy",
            self.model,
            optimizers[0],
            self._topology,
            self._density,
            self._settings,
            came_from,
        )
        self.optimizers = [self._attachment.optimizer]

    def load_checkpoint(self, checkpoint_path: Any, *args: Any, **options: Any) -> dict[str, Any]:
        """Read a checkpoint; this process's state is loaded once there is an optimizer."""
        self._came_from = Path(checkpoint_path)
        found: dict[str, Any] = super().load_checkpoint(checkpoint_path, *args, **options)
        return found

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint, and this process's state beside it."""
        super().save_checkpoint(checkpoint, filepath, storage_options)
        if self._attachment is not None:
            self._attachment.save(Path(filepath))

    def remove_checkpoint(self, filepath: Any) -> None:
        """Remove a checkpoint, and this process's state beside it."""
        super().remove_checkpoint(filepath)
        file_of(Path(filepath)).unlink(missing_ok=True)
