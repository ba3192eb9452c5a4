"""One part's gradient in a step: what is held for a later pass, and the sum."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dgc_topo.payload import Payload
from dgc_topo.training.hooks.compressors import Compressors
from dgc_topo.training.hooks.fsdp.shards import ShardedPart
from dgc_topo.training.hooks.layout import BucketLayout
from dgc_topo.training.hooks.sums import PartSum, average


class ShardSum:
    """One part's shard of the gradient, and its average over the replicas.

    Args:
        part: Parameters of one FSDP module.
        compressors: Those of all parts.
        num_replicas: Number of ranks over which shards are averaged.

    Attributes:
        part: The same.
    """

    def __init__(self, part: ShardedPart, compressors: Compressors, num_replicas: int) -> None:
        self.part = part
        self._compressors, self._num_replicas = compressors, num_replicas
        self._pending: Tensor | None = None
        self._sum: PartSum | None = None

    @property
    def has_pending(self) -> bool:
        """True if gradients are held for a later pass of the step."""
        return self._pending is not None

    @property
    def is_finite(self) -> bool:
        """False if a gradient of this step is not finite on some replica."""
        return self._sum is None or self._sum.is_finite

    def add(self, shard: Tensor, scale: float) -> None:
        """Add a pass's gradient to those that are held.

        Args:
            shard: This rank's part of the gradient, 1-D; not modified.
            scale: Factor on the loss.
        """
        divisor = scale * (self._num_replicas if self.part.divides else 1)
        flat = shard.to(torch.float32, copy=True).div_(divisor)
        self._pending = flat if self._pending is None else self._pending.add_(flat)

    def sum_into(
        self, shard: Tensor, step: int, scale: float, exchange: Callable[[Payload], object]
    ) -> None:
        """Compress what is held, sum it over the replicas, and write the average.

        Args:
            shard: Written to; zeros if a replica's gradient is not finite.
            step: Number of the step.
            scale: Factor on the loss, which the average is given again.
            exchange: Sums a payload over the replicas in place.
        """
        flat, self._pending = self._pending, None
        assert flat is not None
        layout = self._layout(len(flat))
        compressor = self._compressors.of(layout.names, step)
        self._sum = average(compressor, layout.views(flat), exchange)
        shard.zero_()
        if self._sum.is_finite:
            shard.copy_(flat.mul_(scale))
            if shard.dtype == torch.float16:  # the scale may have been too much for it
                self._sum.is_finite = bool(shard.isfinite().all())

    def give_up(self) -> None:
        """Take back what this step has sent, and forget the step."""
        if self._sum is not None:
            self._sum.give_up()
        self.forget()

    def forget(self) -> None:
        """Forget the step."""
        self._sum = None

    def drop(self) -> None:
        """Forget also what is held."""
        self._pending = self._sum = None

    def _layout(self, length: int) -> BucketLayout:
        """Return the layout of the parameters that have gradients now."""
        shapes = self.part.shapes()
        expected = sum(shape.numel() for shape in shapes.values())
        if expected != length:
            raise RuntimeError(
                f"compress_fsdp: {length} elements of gradients in {self.part.name!r}, "
                f"expected {expected}: every trainable parameter has to take part in the loss, or "
                "has to be frozen (torch before 2.13 leaves out those that do not)"
            )
        return BucketLayout(tuple(shapes), tuple(shapes.values()))
