"""Tables for kernels: where each block of each tensor lies, and the tensors' addresses."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence

import torch
import triton.language as tl
from torch import Tensor

from dgc_topo.compression.layout import FlatLayout, Groups

ELEMENTS = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


class Blocks:
    """The blocks of all tensors, in the order of the flat buffer; one element per block.

    Args:
        layout: Where each tensor lies in the buffer.
        size: Elements of a block, a power of two; the last one of a tensor may have fewer.
        device: Where the kernels run.
    """

    def __init__(self, layout: FlatLayout, size: int, device: torch.device) -> None:
        places = [place for _, place in layout.slices()]
        sizes = _on_host([place.stop - place.start for place in places])
        starts = _on_host([place.start for place in places])
        counts = (sizes + size - 1) // size
        ends = counts.cumsum(0)
        tensor = _counted(len(sizes)).repeat_interleave(counts)
        inside = (_counted(len(tensor)) - (ends - counts)[tensor]) * size
        self.size = size
        self.elements = layout.length
        self.count = len(tensor)
        self.device = device
        self.tensor = tensor.to(device, torch.int32)  #: which tensor it belongs to
        self.inside = inside.to(device)  #: its first element in that tensor
        self.flat = (starts[tensor] + inside).to(device)  #: its first element in the buffer
        self.length = (sizes[tensor] - inside).clamp(max=size).to(device, torch.int32)
        self._offsets, self._ends = layout.offsets, [0, *ends.tolist()]

    def on_device(self) -> torch.cuda.device:
        """Return a context in which kernels run on the blocks' device, not on the current GPU."""
        return torch.cuda.device(self.tensor.get_device())  # none for -1, a CPU

    def group_blocks(self, groups: Groups) -> Tensor:
        """Return the first block of each group, shape (num_groups,), int64, on the device.

        Groups begin where tensors do.
        """
        tensors = (bisect_right(self._offsets, start) - 1 for start in groups.offsets[:-1])
        first = [self._ends[min(tensor, len(self._ends) - 1)] for tensor in tensors]
        return torch.tensor(first, dtype=torch.int64, device=self.device)

    def groups(self, groups: Groups) -> Tensor:
        """Return each block's group, shape (count,), int32, on the device."""
        ends = torch.tensor(groups.offsets[1:], dtype=torch.int64, device=self.device)
        return torch.searchsorted(ends, self.flat, right=True).to(torch.int32)


class Reader:
    """Addresses of named tensors, as kernels need them; they seldom change between steps.

    Args:
        names: Names of the tensors, in the order of their numbers.
        device: Device of the tensors.
    """

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self.names = tuple(names)
        self.addresses = torch.zeros(len(self.names), dtype=torch.int64, device=device)
        self._known: list[int] = []

    def read(self, tensors: Mapping[str, Tensor]) -> torch.dtype | None:
        """Read the addresses of the tensors of these names, without waiting for the GPU.

        Returns:
            Type of the tensors; or None, with nothing read, if they have several types or one that
            no kernel reads, or are not contiguous.
        """
        named = [tensors[name] for name in self.names]
        types = {tensor.dtype for tensor in named}
        dtype = types.pop() if len(types) == 1 else None
        if dtype not in ELEMENTS or not all(map(Tensor.is_contiguous, named)):
            return None
        addresses = list(map(Tensor.data_ptr, named))
        if self._known != addresses:
            self._known = addresses
            on_gpu = self.addresses.is_cuda
            on_host = torch.tensor(addresses, dtype=torch.int64, device="cpu", pin_memory=on_gpu)
            self.addresses.copy_(on_host, non_blocking=True)
        return dtype


def spans(sizes: Tensor, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cut lists of these *sizes* into spans of *size*, at least one per list.

    Returns:
        Number of the list that each span belongs to, int32, and its first place in that list,
        int64; both on *device*.
    """
    counts = ((sizes + size - 1) // size).clamp(min=1)
    number = _counted(len(sizes)).repeat_interleave(counts)
    span = _counted(len(number)) - (counts.cumsum(0) - counts)[number]
    return number.to(device, torch.int32), (span * size).to(device)


def _on_host(numbers: Sequence[int]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int64, device="cpu")


def _counted(count: int) -> Tensor:
    return torch.arange(count, dtype=torch.int64, device="cpu")
