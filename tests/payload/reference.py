"""What merging has to mean, in exact arithmetic on whole buffers."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from dgc_topo.payload import (
    MIXTURE,
    Arrival,
    DensePayload,
    Payload,
    SparsePayload,
    equal_bounds,
)
from dgc_topo.schedule import Transfer

#: keep and weight: reduce, copy, and mixes whose products float32 holds exactly.
KINDS = [
    (Fraction(keep), Fraction(weight))
    for keep, weight in (("1", "1"), ("0", "1"), ("1/2", "1/2"), ("3/4", "1/4"), ("1", "0"))
]


@dataclass(frozen=True)
class Case:
    """One step as a receiver sees it: small integers, so that every order of sums is exact."""

    length: int
    num_chunks: int
    rank: int
    buffers: list[Tensor]  #: of every rank, shape (length,)
    transfers: list[Transfer]  #: to `rank`, in the order listed

    def expected(self) -> Tensor:
        """Return the receiver's buffer after ``dst = keep * dst + weight * src`` one by one."""
        bounds = equal_bounds(self.length, self.num_chunks)
        result = self.buffers[self.rank].double().numpy().copy()
        for t in self.transfers:
            run = slice(bounds[t.chunk], bounds[t.chunk_end])
            source = self.buffers[t.src].double().numpy()[run]
            result[run] = float(t.keep) * result[run] + float(t.weight) * source
        return torch.from_numpy(result).float()


@st.composite
def cases(draw: st.DrawFn, only_reduce: bool = False) -> Case:
    length, num_chunks = draw(st.integers(0, 12)), draw(st.integers(1, 7))
    world_size = draw(st.integers(2, 5))
    rank = draw(st.integers(0, world_size - 1))
    values = st.lists(st.integers(-3, 3), min_size=length, max_size=length)
    buffers = [torch.tensor(draw(values), dtype=torch.float32) for _ in range(world_size)]
    transfers = []
    for src in draw(st.lists(st.integers(0, world_size - 1), max_size=5)):
        if src != rank:
            chunk = draw(st.integers(0, num_chunks - 1))
            count = draw(st.integers(1, num_chunks - chunk))
            keep, weight = KINDS[0] if only_reduce else draw(st.sampled_from(KINDS))
            transfers.append(Transfer(src, rank, chunk, count, keep, weight))
    return Case(length, num_chunks, rank, buffers, transfers)


def dense(buffer: Tensor) -> DensePayload:
    return DensePayload(buffer.clone())


def sparse(buffer: Tensor) -> SparsePayload:
    indices = buffer.nonzero().view(-1)
    return SparsePayload(indices, buffer[indices], len(buffer), goals=MIXTURE)


def deliver(case: Case, payloads: Sequence[Payload]) -> None:
    """Cut all payloads, and merge what they pack into the receiver's."""
    for payload in payloads:
        payload.cut(case.num_chunks)
    arrivals = []
    for t in case.transfers:
        expected_bytes = payloads[t.dst].message_bytes(t.chunk, t.count)
        message = payloads[t.src].pack(t.chunk, t.count)
        assert message.dtype == torch.uint8
        assert message.dim() == 1
        assert expected_bytes in (None, message.numel())
        arrivals.append(Arrival(t, message))
    payloads[case.rank].merge(arrivals, case.rank)


def in_rank_order(buffers: Sequence[Tensor]) -> Tensor:
    """Return the float32 sum, added one by one from rank 0 up."""
    total = buffers[0].numpy().copy()
    for buffer in buffers[1:]:
        total = (total + buffer.numpy()).astype(np.float32)
    return torch.from_numpy(total)
