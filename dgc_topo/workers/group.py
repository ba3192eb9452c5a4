"""The `Worker`: this process's rank, device and process group."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from pydantic import TypeAdapter
from torch import Tensor

from dgc_topo.liveness import current
from dgc_topo.runtime.failure import VERDICT_S, in_short

T = TypeVar("T")

#: Times *timeout* that collectives around a run (evaluation, end) wait: their work is slower.
PATIENCE = 10
#: Bytes of JSON that a rank may say at once, or so many times as this one says.
_LONGEST_TEXT, _MOST_TIMES_LONGER = 16 << 20, 16


class GroupPeerError(RuntimeError):
    """A peer was lost, or silent for too long, outside of a schedule.

    Attributes:
        peers: Ranks that are known to be lost.
    """

    def __init__(self, text: str, peers: Sequence[int] = ()) -> None:
        super().__init__(text, peers)
        self.peers = tuple(peers)

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, slots=True)
class Worker:
    """One process of a run.

    The collectives here are for bookkeeping around the steps; *what* names their purpose in errors.
    Functions that time collectives use `torch.distributed` and its default group themselves.

    Attributes:
        rank: This process's rank.
        world_size: Number of ranks.
        device: Device to compute on.
        timeout: Time after which a silent peer is an error.
        tell: Function that gives a JSON value to the launcher, if it listens.
        network: Name of the network in records.
        interface: Interface that carries this worker's traffic and nobody else's, if known.
        time_scale: Factor by which computing is slowed in a scaled lab, else 1.
        regroup: Function that joins those that are left once ranks are lost, where the launcher
            lets them go on.  It returns the new worker, and the ranks of the call that are left, in
            the order of their new ranks; None if the launcher does not say so.
    """

    rank: int
    world_size: int
    device: torch.device
    timeout: timedelta
    tell: Callable[[Any], None]
    network: str
    interface: str | None
    time_scale: float
    regroup: Callable[[], tuple[Worker, tuple[int, ...]] | None] = lambda: None

    def barrier(self, what: str) -> None:
        """Wait for every rank, using no processor time meanwhile."""
        with self._naming(what):
            if self.device.type == "cuda" and dist.get_backend() == "nccl":
                dist.barrier(device_ids=[self.device.index or 0])
            else:
                dist.barrier()

    def sum(self, values: Tensor, what: str) -> Tensor:
        """Return the element-wise sum of every rank's tensor."""
        total = values.to(self._collective_device, copy=True)
        with self._naming(what):
            dist.all_reduce(total)
        return total.to(values.device)

    def gather(self, kind: type[T], value: T, what: str) -> list[T]:
        """Return every rank's value, by rank, on every rank.

        Args:
            kind: Its type, which JSON can express with pydantic's help: nothing that a peer sends
                is unpickled.
            value: This rank's.
            what: For what, in errors.
        """
        adapter = TypeAdapter(kind)
        text = json.dumps(adapter.dump_python(value)).encode()  # numbers come out as they went in
        own = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        told = torch.tensor([len(own)], dtype=torch.int64, device=own.device)
        sizes = [int(size) for size in self.gather_tensors(told, what)]
        longest = max(_LONGEST_TEXT, _MOST_TIMES_LONGER * len(own))
        if not all(0 < size <= longest for size in sizes):
            raise GroupPeerError(
                f"rank {self.rank}: {what}: texts of {sizes} bytes, expected 1 to {longest}"
            )
        padded = torch.zeros(max(sizes), dtype=torch.uint8, device=own.device)
        padded[: len(own)] = own
        texts = self.gather_tensors(padded, what)
        return [
            adapter.validate_python(json.loads(text[:size].numpy().tobytes()))
            for text, size in zip(texts, sizes, strict=True)
        ]

    def gather_tensors(self, values: Tensor, what: str) -> list[Tensor]:
        """Return every rank's tensor, by rank, on every rank; all are of one shape and type."""
        own = values.to(self._collective_device)
        found = [torch.empty_like(own) for _ in range(self.world_size)]
        with self._naming(what):
            dist.all_gather(found, own)
        return [each.to(values.device) for each in found]

    def naming_losses(self) -> AbstractContextManager[None]:
        """See `naming_losses`."""
        return naming_losses(f"rank {self.rank}")

    @contextmanager
    def _naming(self, what: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if (loss := current().verdict(VERDICT_S)) is not None:
                raise GroupPeerError(f"rank {self.rank}: {what}: {loss}", [loss.rank]) from error
            seconds = (self.timeout * PATIENCE).total_seconds()
            raise GroupPeerError(
                f"rank {self.rank}: {what}: a peer is lost, or silent for {seconds:g} s: {error}"
            ) from error

    @property
    def _collective_device(self) -> torch.device:
        return self.device if dist.get_backend() == "nccl" else torch.device("cpu")


def is_torchs(error: BaseException) -> bool:
    """Return True if an error is one of torch's, which do not say what rank failed."""
    return type(error) is RuntimeError or isinstance(error, dist.DistError)


@contextmanager
def naming_losses(who: str) -> Iterator[None]:
    """Name the rank whose loss, or early end, is why torch fails in the block.

    Args:
        who: What to call this process.

    Raises:
        GroupPeerError: instead of torch's own error, if a rank is lost or has ended.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_torchs(error):
            raise
        if (loss := current().verdict(VERDICT_S)) is not None:
            raise GroupPeerError(f"{who}: {loss}", [loss.rank]) from error
        if left := current().ended:
            raise GroupPeerError(f"{who}: {left[0]}: {in_short(error)}", [left[0].rank]) from error
        raise


_FORGOTTEN: list[dist.ProcessGroup | None] = []


def forget_group() -> None:
    """Make room for a new default group, beside one that is broken.

    The broken one is kept: its end would wait for connections to ranks that are gone.
    """
    if dist.is_initialized():
        _FORGOTTEN.append(dist.group.WORLD)
        dist.destroy_process_group()
