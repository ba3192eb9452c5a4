"""Velocity and residual: the state that makes a sparse update equal a delayed dense one.

Momentum correction (Lin et al., ICLR 2018, equations 7 and 8), per rank and element::

    plain      u = m*u + g;     v = v + u
    Nesterov   u = m*(u + g);   v = v + u + g

An element of v is sent once it is large, and stays otherwise: nothing is lost, only late.

Two simpler laws are there to be compared with: gradient dropping, ``v = v + g``, and naive
sparsification, ``v = g``, which forgets what it does not send.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from dgc_topo.compression.config import DGCConfig
from dgc_topo.compression.layout import FlatLayout
from dgc_topo.compression.pool import Watcher
from dgc_topo.compression.tiles import Gatherer, tile_size, tiles_of
from dgc_topo.compression.values import FLOAT32_MAX
from dgc_topo.wire.tensors import to_wire


class _Most(NamedTuple):
    """Bounds on the magnitudes of all velocities and residuals."""

    velocity: float
    residual: float


class Accumulation:
    """One rank's velocity u and residual v, float32, flat over the compressed tensors.

    Without momentum correction there is no velocity: it has no elements.

    Args:
        layout: Where each tensor lies in u and v.
        device: Where they are kept.
        config: Says which law holds.
        num_workers: Ranks whose contributions are summed.
    """

    def __init__(
        self, layout: FlatLayout, device: torch.device, config: DGCConfig, *, num_workers: int = 1
    ) -> None:
        self.layout = layout
        self._num_workers = num_workers
        self.residual = torch.zeros(layout.length, dtype=torch.float32, device=device)
        self._corrects = config.corrects_momentum
        self.velocity = torch.zeros_like(self.residual) if self._corrects else self.residual[:0]
        self._momentum = config.momentum
        self._nesterov = config.nesterov
        self._masking = config.masking and self._corrects
        self._keeps = config.accumulation
        self._most = _Most(0.0, 0.0)
        self._tiles = tuple(tiles_of(layout, tile_size(layout.length, device)))

    def has_room(self, largest: float) -> bool:
        """Return whether a gradient can be added, wherever its *largest* element is; it will be.

        That costs no pass over the state unless values come near the end of float32, which only
        gradients of 64 bits do: the norm of others overflows long before.
        """
        most = self._after(self._most, largest)
        if not most.residual <= FLOAT32_MAX:
            most = self._after(self._measured(), largest)
        if not most.residual <= FLOAT32_MAX:
            return False
        self._most = most
        return True

    def forget_bounds(self) -> None:
        """Say that the state was replaced: `has_room` has to look at it."""
        self._most = _Most(math.inf, math.inf)

    def _after(self, most: _Most, largest: float) -> _Most:
        """Return the bounds once a gradient is added; not less than by any law."""
        velocity = self._momentum * most.velocity + largest
        ahead = largest if self._nesterov else 0.0
        return _Most(velocity, most.residual + velocity + ahead)

    def _measured(self) -> _Most:
        sizes = (
            float(torch.linalg.vector_norm(state, math.inf)) if len(state) else 0.0
            for state in (self.velocity, self.residual)
        )
        return _Most(*sizes)

    @torch.no_grad()
    def add(self, *terms: tuple[Mapping[str, Tensor], float], pool: Watcher | None = None) -> None:
        """Accumulate the gradient ``g = sum of factor * tensors``, tile by tile.

        Args:
            terms: Tensors by parameter name, any floating-point type, with their factor.
            pool: Sees every tile of the residual as soon as it is written, while it is in the
                cache.
        """
        size = max((tile.length for tile in self._tiles), default=0)
        gathered = Gatherer(terms, size, self.residual.device)
        for tile in self._tiles:
            residual = self.residual[tile.start : tile.stop]
            self._accumulate(gathered(tile), self.velocity[tile.start : tile.stop], residual)
            if pool:
                pool.watch(tile.start, residual)

    def _accumulate(self, gradient: Tensor, velocity: Tensor, residual: Tensor) -> None:
        """Apply the law to a tile; every operation rounds, so the result has no trace of tiles."""
        if not self._keeps:
            residual.copy_(gradient)
        elif not self._corrects:
            residual.add_(gradient)
        elif self._nesterov:
            velocity.add_(gradient).mul_(self._momentum)
            residual.add_(gradient).add_(velocity)
        else:
            velocity.mul_(self._momentum).add_(gradient)
            residual.add_(velocity)

    def take(self, indices: Tensor) -> Tensor:
        """Remove the elements at *indices* from the residual and return them.

        Args:
            indices: Shape (n,), int64, unique.

        Returns:
            Shape (n,), float32.
        """
        values = self.residual[indices]
        if self._keeps:
            self.residual.index_fill_(0, indices, 0.0)
        else:
            self.residual.zero_()
        if self._masking:
            self.velocity.index_fill_(0, indices, 0.0)
        return values

    def take_all(self, into: Tensor) -> None:
        """Move the whole residual to *into*, shape (length,).

        The velocity is left alone: masking keeps *delayed* gradients from being carried on by
        momentum, and here nothing is delayed.  Masked, density 1 would be SGD without momentum.
        """
        into.copy_(self.residual)
        self.residual.zero_()

    def send(self, indices: Tensor, wire_dtype: torch.dtype) -> Tensor:
        """As `take`, in numbers whose sum *wire_dtype* can hold; the rest of them stays behind."""
        taken = self.take(indices)
        sent = to_wire(taken, wire_dtype, self._num_workers)
        if sent is not taken:
            self.give_back(indices, taken - sent)
        return sent

    def send_all(self, into: Tensor, wire_dtype: torch.dtype) -> None:
        """As `take_all`, in numbers whose sum *wire_dtype* can hold; the rest of them stays."""
        self.take_all(into)
        sent = to_wire(into, wire_dtype, self._num_workers)
        if sent is not into:
            self.residual.add_(into - sent)
            into.copy_(sent)

    def give_back(self, indices: Tensor, values: Tensor) -> None:
        """Add *values* to the residual at *indices*, which may repeat.

        Without accumulation they are dropped, as whatever else was not sent.
        """
        if self._keeps:
            self.residual.index_add_(0, indices, values)
