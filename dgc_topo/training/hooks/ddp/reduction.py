"""The average of one bucket over the ranks: as it is, or compressed by DGC."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from dgc_topo.payload import SUM, DensePayload
from dgc_topo.training.hooks.compressors import BucketDGC, Compressors
from dgc_topo.training.hooks.ddp.passes import BackwardPass, BegunBucket, Rollback, SummedBucket
from dgc_topo.training.hooks.flags import used
from dgc_topo.training.hooks.layout import in_memory_order
from dgc_topo.training.hooks.sums import PartSum, average
from dgc_topo.training.marks import DisagreementError, check_marks, marks_of
from dgc_topo.training.own_group import OwnGroup
from dgc_topo.wire.coding import WireDtype
from dgc_topo.wire.tensors import TORCH_DTYPES

_WIRE_DTYPES = {dtype: name for name, dtype in TORCH_DTYPES.items()}


class Reduction(Protocol):
    """Averages buckets over the ranks."""

    @property
    def takes_two(self) -> bool:
        """True if the last bucket of a pass may be averaged while others are, in CPU memory."""

    def run(self, bucket: BegunBucket, *, beside: bool = False) -> None:
        """Average a bucket in place, over the ranks.

        Args:
            bucket: The bucket.
            beside: True if another one may be under way on another thread.
        """


class DenseMean:
    """Density 1: the bucket itself is the payload, with no copy and no state.

    Args:
        group: Ranks and topology.
        wire_dtype: Element type of messages; a bucket of 16 bits travels as such.
    """

    def __init__(self, group: OwnGroup, wire_dtype: WireDtype) -> None:
        self._group, self._wire_dtype = group, wire_dtype
        self._compared: BackwardPass | None = None  # the last one whose number was compared
        self._payloads: MutableMapping[Tensor, DensePayload] = WeakTensorKeyDictionary()

    @property
    def takes_two(self) -> bool:
        """See `Reduction.takes_two`: as nothing is compared that the first bucket brings."""
        return self._group.takes_two and not self._group.topology.varies

    @torch.no_grad()
    def run(self, bucket: BegunBucket, *, beside: bool = False) -> None:
        """See `Reduction.run`.

        Raises:
            RanksDifferError: on every rank, naming ranks and their steps, where steps matter.
        """
        _, buffer, result, within = bucket
        self._compare(buffer.device, within)
        payload = self._payload(buffer)
        if self._group.num_workers > 1:
            payload.buffer.div_(self._group.num_workers)
        run = self._group.run_beside if beside else self._group.run
        run(payload, within.number)
        if buffer.dtype != torch.float32:
            buffer.copy_(payload.buffer)
        result.set_result(buffer)

    def _payload(self, buffer: Tensor) -> DensePayload:
        """Return the payload of a bucket, which DDP uses again in every step."""
        payload = self._payloads.get(buffer)
        if payload is None:
            wire_dtype = self._wire_dtype
            if wire_dtype == "float32":
                wire_dtype = _WIRE_DTYPES.get(buffer.dtype, wire_dtype)
            payload = DensePayload(buffer.to(torch.float32), wire_dtype, goals=SUM)
            if buffer.dtype == torch.float32:
                self._payloads[buffer] = payload
        return payload

    def _compare(self, device: torch.device, within: BackwardPass) -> None:
        """Compare the number of the pass, at its first bucket, if it decides what is sent to whom.

        Nothing else here depends on it: there is neither state nor a warm-up at density 1.
        """
        if within is self._compared or not self._group.topology.varies:
            return
        self._compared = within
        marks = marks_of(within.number)
        try:
            check_marks("hook", self._group.counts(marks, device, within.number), marks)
        except DisagreementError:
            self._group.name_difference({"step": within.number})


class Compressing:
    """Below density 1: DGC, with state by parameter.

    Args:
        group: Ranks and topology.
        compressors: Those of all buckets.
        parameters: The model's, by name.
        decays: Local weight decay by parameter name.
    """

    def __init__(
        self,
        group: OwnGroup,
        compressors: Compressors,
        parameters: Mapping[str, nn.Parameter],
        decays: Mapping[str, float],
    ) -> None:
        self._group, self._num_workers = group, group.num_workers
        self._compressors, self._parameters, self._decays = compressors, parameters, decays

    @property
    def takes_two(self) -> bool:
        """See `Reduction.takes_two`: the first bucket brings the comparison of all."""
        return False

    @torch.no_grad()
    def run(self, bucket: BegunBucket, *, beside: bool = False) -> None:
        """See `Reduction.run`."""
        assert not beside
        layout, buffer, result, within = bucket
        compressor = self._compressors.of(layout.names, within.number)
        flat = buffer.to(torch.float32)
        flat.mul_(1 / (self._num_workers * within.scale))
        gradients = layout.views(flat)
        is_used = used(list(gradients.values())) if within.may_be_unused else []
        idle = [name for name, each in zip(gradients, is_used, strict=False) if not each]
        rollback = Rollback(compressor, idle)
        self._add_decay(gradients)
        found = self._average(compressor, gradients, is_used, within)
        unused = [n for n, users in zip(gradients, found.num_users, strict=False) if not users]
        if found.is_finite:
            for name in unused:
                gradients[name].zero_()
            if within.scale != 1:
                flat.mul_(within.scale)
            if flat is not buffer:
                buffer.copy_(flat)
        within.buckets.append(SummedBucket(buffer, result, found, rollback, unused))

    def _average(
        self,
        compressor: BucketDGC,
        gradients: Mapping[str, Tensor],
        is_used: Sequence[bool],
        within: BackwardPass,
    ) -> PartSum:
        """Average a bucket; with the first one of a pass ranks are compared.

        Raises:
            RanksDifferError: on every rank, naming ranks, and their steps or hyper-parameters.
        """
        marks = [] if within.buckets else marks_of(within.number, within.moves.number)
        try:
            return average(
                compressor,
                gradients,
                lambda each: self._group.run(each, within.number),
                is_used,
                marks,
            )
        except DisagreementError:
            self._group.name_difference({"step": within.number, **within.moves.described()})

    def _add_decay(self, gradients: Mapping[str, Tensor]) -> None:
        """Add this rank's share of the weight decay to its gradients."""
        for name, gradient in gradients.items():
            decay, parameter = self._decays.get(name, 0.0), self._parameters[name]
            if decay and parameter.requires_grad:
                gradient.add_(in_memory_order(parameter), alpha=decay / self._num_workers)
