"""Parameters as they lie in memory, which is how DDP's buckets hold their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


def in_memory_order(tensor: Tensor) -> Tensor:
    """Return a contiguous view of a dense tensor: its elements in the order of memory.

    In a bucket, the gradient of a parameter in channels-last format lies in that order, too.  A
    tensor with gaps is returned as it is.
    """
    tensor = tensor.detach()
    if tensor.is_contiguous() or not _is_dense(tensor):
        return tensor
    flat = tensor.as_strided((tensor.numel(),), (1,), tensor.storage_offset())
    return flat.view(tensor.shape)


def refuse_sparse_gradients(where: str, model: nn.Module) -> None:
    """Refuse layers whose gradients are sparse tensors: DDP puts those into no flat bucket.

    Raises:
        ValueError: naming the first.
    """
    for name, module in model.named_modules():
        is_sparse = isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse
        if is_sparse and module.weight.requires_grad:
            raise ValueError(
                f"{where}: layer {name!r} has sparse gradients, expected sparse=False there, or "
                "dt.DistributedOptimizer without DistributedDataParallel, which sums them dense"
            )


def _is_dense(tensor: Tensor) -> bool:
    """Return True if the elements fill their memory without gaps or overlaps."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


class BucketLayout(NamedTuple):
    """Parameters of a bucket, in the order of its buffer.

    Attributes:
        names: Names of the parameters.
        shapes: Their shapes.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]

    @classmethod
    def of(cls, names: Sequence[str], parameters: Sequence[nn.Parameter | Tensor]) -> BucketLayout:
        """Return the layout of *parameters*, called *names*."""
        return cls(tuple(names), tuple(parameter.shape for parameter in parameters))

    def views(self, buffer: Tensor) -> dict[str, Tensor]:
        """Return each parameter's part of a flat buffer, sharing its memory."""
        parts = torch.split(buffer, [shape.numel() for shape in self.shapes])
        return {
            name: part.view(shape)
            for name, shape, part in zip(self.names, self.shapes, parts, strict=True)
        }
