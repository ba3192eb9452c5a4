"""DGC's payloads, and the update that follows from their sum over all ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dgc_topo.compression.accumulation import Accumulation
from dgc_topo.compression.after_sum import MomentumSGD
from dgc_topo.compression.compressor import dense_part
from dgc_topo.compression.config import DGCConfig
from dgc_topo.compression.layout import Groups
from dgc_topo.compression.local_step import Sent
from dgc_topo.compression.parameters import is_frozen
from dgc_topo.compression.pool import constant, places_of, trim
from dgc_topo.payload import SUM, BundlePayload, DensePayload, Entries, Payload, SparsePayload
from dgc_topo.sizes import is_sparse
from dgc_topo.wire.coding import WireCoding


@dataclass(frozen=True, slots=True)
class Payloads:
    """The payloads of one compressor.

    Below density 1 they are a `BundlePayload` of a `SparsePayload` over the compressed tensors and
    a `DensePayload` over the others; at density 1 one `DensePayload` over both, in that order.

    Attributes:
        length: Elements of the compressed tensors.
        others: Elements of those that travel dense.
        device: Device of all of them.
        coding: Coding of messages.
    """

    length: int
    others: int
    device: torch.device
    coding: WireCoding

    def sparse(self, sent: Sent, dense: Tensor) -> BundlePayload:
        """Return the payload of the elements sent, and of *dense* for the other tensors."""
        sparse = SparsePayload(
            sent.indices,
            sent.values,
            self.length,
            coding=self.coding,
            message=sent.message,
        )
        return BundlePayload([sparse, self.dense(dense)])

    def dense(self, buffer: Tensor) -> DensePayload:
        """Return the payload of *buffer*, which holds tensors end to end."""
        return DensePayload(buffer, self.coding.wire_dtype, goals=SUM)

    def neutral(self, density: float) -> Payload:
        """Return a payload of zeros, of the kind that *density* asks for."""
        if not is_sparse(density):
            return self.dense(self._zeros(self.length + self.others))
        nothing = torch.empty(0, dtype=torch.int64, device=self.device)
        sent = Sent(nothing, nothing.to(torch.float32), None)
        return self.sparse(sent, self._zeros(self.others))

    def parts(self, where: str, summed: Payload) -> tuple[Tensor, Tensor]:
        """Return the sums over compressed and over dense tensors, in memory of their own.

        Args:
            where: What to call the compressor in an error.
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


class Reselection:
    """Re-selection of the merged sum on one rank.

    Args:
        accumulation: Takes back what is rejected.
        groups: Which elements compete with each other.
    """

    def __init__(self, accumulation: Accumulation, groups: Groups) -> None:
        self._accumulation, self._groups = accumulation, groups
        self._own: Entries | None = None

    def note_sent(self, own: Entries) -> None:
        """Remember the entries that this rank sends in this step."""
        self._own = own

    def apply(self, total: Tensor, density: float) -> Entries | None:
        """Keep only the largest elements of the sum; take this rank's share of the others back.

        Args:
            total: Shape (length,), float32; changed in place.
            density: Fraction of each group to keep.

        Returns:
            The entries that this rank sent and that were kept; None if it sent none.
        """
        indices = places_of(total != 0)
        best = best_entries(Entries(indices, total[indices]), self._groups, density)
        total.zero_()[best.indices] = best.values
        own, self._own = self._own, None
        if own is None:  # a server has sent nothing
            return None
        rejected = without(own, best.indices)
        self._accumulation.give_back(*rejected)
        return without(own, rejected.indices)


def best_entries(merged: Entries, groups: Groups, density: float) -> Entries:
    """Return the largest magnitudes of each group: as many as one rank sends.

    Ranks with the same sum keep the same entries; of equal magnitudes the lower indices.
    """
    device = merged.values.device
    ends = torch.searchsorted(merged.indices, constant(groups.offsets[1:], device))
    counts = constant(tuple(groups.counts(density)), device)
    places = trim(merged.values.abs(), ends, counts).places
    return Entries(merged.indices[places], merged.values[places])


def without(own: Entries, kept: Tensor) -> Entries:
    """Return the entries of *own* whose indices are not among *kept*."""
    rejected = torch.isin(own.indices, kept, assume_unique=True, invert=True)
    return Entries(own.indices[rejected], own.values[rejected])
