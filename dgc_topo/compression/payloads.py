"""What DGC sends: a step's payload is made here, and the sum of all ranks' taken apart again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dgc_topo.compression.base import dense_part
from dgc_topo.compression.step import Sent
from dgc_topo.payload import SUM, BundlePayload, DensePayload, Payload, SparsePayload
from dgc_topo.wire.coding import WireCoding
from dgc_topo.wire.tensors import TORCH_DTYPES


@dataclass(frozen=True, slots=True)
class Payloads:
    """The payloads of one compressor.

    Below density 1 they are a `BundlePayload` of a `SparsePayload` over the compressed tensors and
    a `DensePayload` over the others; at density 1 one `DensePayload` over both, in that order.
    """

    length: int  #: elements of the compressed tensors
    others: int  #: elements of those that travel dense
    device: torch.device
    coding: WireCoding

    @property
    def wire_dtype(self) -> torch.dtype:
        """Of the values in a message."""
        return TORCH_DTYPES[self.coding.wire_dtype]

    def sparse(self, sent: Sent, dense: Tensor) -> BundlePayload:
        """Return what is sent of the compressed tensors, and *dense* for the others."""
        sparse = SparsePayload(
            sent.indices,
            sent.values,
            self.length,
            wire_dtype=self.wire_dtype,
            index_encoding=self.coding.index_encoding,
            message=sent.message,
        )
        return BundlePayload([sparse, self.dense(dense)])

    def dense(self, buffer: Tensor) -> DensePayload:
        """Return everything, or all that travels dense, end to end in *buffer*."""
        return DensePayload(buffer, self.wire_dtype, goals=SUM)

    def neutral(self, density: float) -> Payload:
        """Return a payload of zeros, of the kind that *density* asks for."""
        if density >= 1:
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
