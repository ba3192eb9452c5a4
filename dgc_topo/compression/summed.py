"""DGC's payloads, and the update that follows from their sum over all ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dgc_topo.compression.after_sum import MomentumSGD
from dgc_topo.compression.balance import Balance
from dgc_topo.compression.compressor import dense_part
from dgc_topo.compression.config import DGCConfig
from dgc_topo.compression.layout import Groups
from dgc_topo.compression.local_step import Sent
from dgc_topo.compression.parameters import is_frozen
from dgc_topo.payload import (
    SUM,
    BundlePayload,
    DensePayload,
    Entries,
    Payload,
    PlacedPayload,
    Quotas,
    SparsePayload,
    equal_bounds,
)
from dgc_topo.schedule.completion import Merge
from dgc_topo.sizes import is_sparse
from dgc_topo.wire.coding import DENSE_BYTES, WireCoding
from dgc_topo.wire.limits import HEADER_BYTES
from dgc_topo.wire.scales import no_scales


@dataclass(frozen=True, slots=True)
class Payloads:
    """The payloads of one compressor.

    Below density 1 they are a `BundlePayload` of a `SparsePayload` over the compressed tensors and
    a `DensePayload` over the others; at density 1, and where ``auto`` finds that no larger, one
    `DensePayload` over both, in that order.

    Attributes:
        groups: Groups of the compressed tensors' elements, each of which sends its own largest.
        others: Elements of those that travel dense.
        device: Device of all of them.
        config: Coding of messages, policy of the sum, and whether chunks are balanced.
        layers: Elements at which a layer but the first begins: each has a scale of its own.
        balance: Memory of earlier sums, for re-selection that follows them.
    """

    groups: Groups
    others: int
    device: torch.device
    config: DGCConfig
    layers: tuple[int, ...] = ()
    balance: Balance | None = None

    @property
    def coding(self) -> WireCoding:
        """Coding of messages."""
        return self.config.coding

    @property
    def merge(self) -> Merge:
        """Policy of the sum."""
        return self.config.merge

    @property
    def length(self) -> int:
        """Elements of the compressed tensors."""
        return self.groups.offsets[-1]

    def density_sent(self, density: float) -> float:
        """Return the fraction of the elements that a rank sends at a density.

        With ``auto`` it is 1 where one rank's own entries would take no fewer bytes; every rank
        finds the same, from sizes alone.
        """
        if not is_sparse(density) or self.merge != "auto" or not self.length:
            return density
        entries = np.array([float(sum(self.groups.counts(density)))])
        coded = self.coding.expected_bytes(np.array([float(self.length)]), entries)
        dense = DENSE_BYTES[self.coding.wire_dtype] * self.length
        return density if float(coded[0]) - HEADER_BYTES < dense else 1.0

    def sparse(self, sent: Sent, dense: Tensor, density: float) -> BundlePayload:
        """Return the payload of the elements sent, and of *dense* for the other tensors.

        Args:
            sent: The elements that this rank sends.
            dense: Shape (others,), float32.
            density: Fraction of each group that a rank sends; with re-selection the sum has as
                many entries.
        """
        return BundlePayload([self._summed(sent, self._quotas(density)), self.dense(dense)])

    def _summed(self, sent: Sent, quotas: Quotas | None) -> SparsePayload:
        if self.config.balance and self.merge == "union" and self.length:
            return PlacedPayload(
                sent.indices, sent.values, self.length, coding=self.coding, scales=sent.scales
            )
        return SparsePayload(
            sent.indices,
            sent.values,
            self.length,
            coding=self.coding,
            bounds_of=equal_bounds if quotas is None else quotas.bounds,
            message=sent.message,
            quotas=quotas,
            scales=sent.scales,
        )

    def dense(self, buffer: Tensor) -> DensePayload:
        """Return the payload of *buffer*, which holds tensors end to end."""
        return DensePayload(buffer, self.coding.dense_dtype, goals=SUM)

    def neutral(self, density: float) -> Payload:
        """Return a payload of zeros, of the kind that *density* asks for."""
        if not is_sparse(density):
            return self.dense(self._zeros(self.length + self.others))
        nothing = torch.empty(0, dtype=torch.int64, device=self.device)
        scales = no_scales(self.layers, self.device) if self.coding.is_coarse else None
        sent = Sent(nothing, nothing.to(torch.float32), None, scales)
        return self.sparse(sent, self._zeros(self.others), density)

    def parts(self, where: str, summed: Payload) -> tuple[Tensor, Tensor]:
        """Return the sums over compressed and over dense tensors, in memory of their own.

        Args:
            where: Name of the compressor in errors.
            summed: A sum of such payloads; the compressed tensors may have become dense in it.

        Raises:
            ValueError: if it is no such sum.
        """
        match summed:
            case BundlePayload(parts=[SparsePayload(length=found) as sparse, rest]):
                if found == self.length:
                    return sparse.to_dense(), dense_part(where, rest, self.others).clone()
            case BundlePayload(parts=[filled, rest]):  # a merge policy may have filled it up
                compressed = dense_part(where, filled, self.length)
                return compressed.clone(), dense_part(where, rest, self.others).clone()
        buffer = dense_part(where, summed, self.length + self.others).clone()
        return buffer[: self.length], buffer[self.length :]

    def learn_from(self, summed: Payload) -> Entries | None:
        """Remember where the entries of a sum lie, and return those that this rank rejected.

        Returns:
            What belongs into the residual; None if that is nothing, as at the second call.
        """
        match summed:
            case BundlePayload(parts=[SparsePayload() as sparse, _]):
                if self.balance is not None:
                    # Ranks to which a part travelled dense have entries of 0 in it, others not.
                    is_there = sparse.values != 0
                    total = Entries(sparse.indices[is_there], sparse.values[is_there])
                    self.balance.note(total)
                return sparse.take_back()
        return None

    def _quotas(self, density: float) -> Quotas | None:
        if self.merge == "union":
            return None
        shares = None if self.balance is None else self.balance.shares()
        counts = tuple(self.groups.counts(density))
        return Quotas(self.groups.offsets, counts, self.merge, shares)

    def _zeros(self, length: int) -> Tensor:
        return torch.zeros(length, dtype=torch.float32, device=self.device)


class SumRules:
    """Turn sums into updates: of the compressed tensors, and of those that travel dense.

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
