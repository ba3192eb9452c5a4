"""What DGC does with the sum of all ranks' payloads: momentum and weight decay that come late."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dgc_topo.compression.config import DGCConfig
from dgc_topo.compression.momentum import MomentumSGD
from dgc_topo.compression.tensors import is_frozen


class SumRules:
    """Turns sums into updates: of the compressed tensors, and of those that travel dense.

    Where momentum has been corrected before the selection, a compressed tensor's update is the sum
    itself, with separate weight decay in a momentum of its own.  Everything else gets ordinary
    momentum here.

    Args:
        compressed: Live parameters that are compressed, by name.
        dense: The others.
        device: Where all are.
        config: Settings.
    """

    def __init__(
        self,
        compressed: Mapping[str, Tensor],
        dense: Mapping[str, Tensor],
        device: torch.device,
        config: DGCConfig,
    ) -> None:
        self._config = config
        self._compressed = compressed
        self._device = device
        self.dense = self._rule(dense, config.weight_decay)
        self.compressed = self._compressed_rule()

    def update_compressed(self, total: Tensor, views: Mapping[str, Tensor]) -> None:
        """Turn the sum into the update of the compressed tensors.

        Args:
            total: Shape (length,), float32; overwritten by the update.
            views: The tensors inside *total*, by name.
        """
        if not self._config.corrects_momentum:
            self.compressed.update(total)
            return
        if self.compressed.layout.length:
            total.add_(self.compressed.update(torch.zeros_like(total)))
        if self._config.weight_decay_mode == "decoupled" and self._config.weight_decay:
            for name, view in views.items():
                if not is_frozen(self._compressed[name]):
                    view.add_(self._compressed[name], alpha=self._config.weight_decay)

    def _compressed_rule(self) -> MomentumSGD:
        mode, decay = self._config.weight_decay_mode, self._config.weight_decay
        if not self._config.corrects_momentum:
            return self._rule(self._compressed, 0.0 if mode == "local" else decay)
        return self._rule(self._compressed if mode == "separate" and decay else {}, decay)

    def _rule(self, parameters: Mapping[str, Tensor], weight_decay: float) -> MomentumSGD:
        return MomentumSGD(
            parameters,
            self._device,
            momentum=self._config.momentum,
            nesterov=self._config.nesterov,
            weight_decay=weight_decay,
            decoupled=self._config.weight_decay_mode == "decoupled",
        )
