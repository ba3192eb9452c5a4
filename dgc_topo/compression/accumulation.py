"""Velocity and residual: the state that makes a sparse update equal a delayed dense one.

Momentum correction (Lin et al., ICLR 2018, equations 7 and 8), per rank and element::

    plain      u = m*u + g;     v = v + u
    Nesterov   u = m*(u + g);   v = v + u + g

An element of v is sent once it is large.  Until then it stays in v: it is late, never lost.

Two simpler laws serve for comparison: gradient dropping, ``v = v + g``, and naive sparsification,
``v = g``, which drops every element that it does not send.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from dgc_topo.compression.compressor import Sections
from dgc_topo.compression.config import DGCConfig
from dgc_topo.compression.layout import FlatLayout, Gatherer, tile_size, tiles_of
from dgc_topo.compression.pool import Watcher
from dgc_topo.compression.values import FLOAT32_MAX
from dgc_topo.payload import Entries
from dgc_topo.wire.tensors import to_wire


class _Bounds(NamedTuple):
    """Bounds on the magnitudes of all velocities and residuals."""

    velocity: float
    residual: float


class Accumulation:
    """One rank's velocity u and residual v: float32, flat over the compressed tensors.

    Without momentum correction the velocity has no elements.

    Args:
        layout: Where each tensor lies in u and v.
        device: Device of u and v.
        config: Settings, which choose the law.
        num_workers: Number of ranks whose contributions are summed.
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
        self._most = _Bounds(0.0, 0.0)
        self._tiles = tuple(tiles_of(layout, tile_size(layout.length, device)))

    def has_room(self, largest: float) -> bool:
        """Return True if a gradient with this *largest* element can be added without overflow.

        The caller must then add it.  The check reads the state only if values come near the end of
        float32.  Only float64 gradients do: the norm of all others overflows long before.
        """
        most = self._after(self._most, largest)
        if not most.residual <= FLOAT32_MAX:
            most = self._after(self._measured(), largest)
        if not most.residual <= FLOAT32_MAX:
            return False
        self._most = most
        return True

    def forget_bounds(self) -> None:
        """Forget the bounds, because the state was replaced; `has_room` measures it again."""
        self._most = _Bounds(math.inf, math.inf)

    def _after(self, most: _Bounds, largest: float) -> _Bounds:
        """Return upper bounds, valid for every law, on the state after a gradient is added."""
        velocity = self._momentum * most.velocity + largest
        ahead = largest if self._nesterov else 0.0
        return _Bounds(velocity, most.residual + velocity + ahead)

    def _measured(self) -> _Bounds:
        sizes = (
            float(torch.linalg.vector_norm(state, math.inf)) if len(state) else 0.0
            for state in (self.velocity, self.residual)
        )
        return _Bounds(*sizes)

    @torch.no_grad()
    def add(self, *terms: tuple[Mapping[str, Tensor], float], pool: Watcher | None = None) -> None:
        """Accumulate the gradient ``g = sum of factor * tensors``, tile by tile.

        Args:
            terms: Tensors by parameter name, of any floating-point type, each group with its
                factor.
            pool: Observer that gets each tile of the residual while it is still in the cache.
        """
        size = max((tile.length for tile in self._tiles), default=0)
        gathered = Gatherer(terms, size, self.residual.device)
        for tile in self._tiles:
            residual = self.residual[tile.start : tile.stop]
            self._accumulate(gathered(tile), self.velocity[tile.start : tile.stop], residual)
            if pool:
                pool.watch(tile.start, residual)

    def _accumulate(self, gradient: Tensor, velocity: Tensor, residual: Tensor) -> None:
        """Apply the law to one tile; each operation rounds by itself, so tiles change no result."""
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

        The velocity stays: masking prevents momentum from repeating *delayed* gradients, and here
        nothing is delayed.  With masking, density 1 would be SGD without momentum.
        """
        into.copy_(self.residual)
        self.residual.zero_()

    def send(self, indices: Tensor, wire_dtype: torch.dtype) -> Tensor:
        """Take elements, rounded so that *wire_dtype* can hold their sum; the remainders stay."""
        taken = self.take(indices)
        sent = to_wire(taken, wire_dtype, self._num_workers)
        if sent is not taken:
            self.give_back(indices, taken - sent)
        return sent

    def send_all(self, into: Tensor, wire_dtype: torch.dtype) -> None:
        """Move the residual, rounded so that *wire_dtype* can hold the sum; the rest stays."""
        self.take_all(into)
        sent = to_wire(into, wire_dtype, self._num_workers)
        if sent is not into:
            self.residual.add_(into - sent)
            into.copy_(sent)

    def give_back(self, indices: Tensor, values: Tensor) -> None:
        """Add *values* to the residual at *indices*, which may repeat.

        Without accumulation they are dropped, like everything else that was not sent.
        """
        if self._keeps:
            self.residual.index_add_(0, indices, values)

    def take_in(self, entries: Entries) -> Entries:
        """Add parts of *all* ranks' sum, which may be larger than anything that was here.

        Args:
            entries: At least one; no index twice.

        Returns:
            The residual before, at the same indices: `put_back` undoes this.
        """
        indices, values = entries
        before = Entries(indices, self.residual[indices])
        velocity, residual = self._most
        self._most = _Bounds(velocity, residual + float(values.abs().max()))
        self.give_back(indices, values)
        return before

    def put_back(self, before: Entries) -> None:
        """Undo a `take_in`, which returned *before*."""
        self.residual[before.indices] = before.values


NUM_BINS = 32
_TILE = 1 << 20  # elements at once: the temporary memory stays small


class Staleness(NamedTuple):
    """Histograms over waiting times in steps; bin b counts from ``2**b`` to below ``2**(b+1)``.

    An element that is sent in two consecutive steps has waited 1.

    Attributes:
        sent: Waiting times of all elements ever sent, at the moment when they were sent.
        waiting: Current waiting times of all elements, since each was last sent.
    """

    sent: list[int]
    waiting: list[int]


class Ages:
    """The step in which each element was last sent: one int32 per element.

    A step writes only the elements that it sends; no counter has to be advanced.

    Args:
        length: Number of elements.
        device: Device of the numbers.
    """

    def __init__(self, length: int, device: torch.device) -> None:
        self.last_sent = torch.zeros(length, dtype=torch.int32, device=device)
        self.sent_histogram = torch.zeros(NUM_BINS, dtype=torch.int64, device=device)
        self._edges = 2 ** torch.arange(NUM_BINS - 1, dtype=torch.int32, device=device)

    def note_sent(self, indices: Tensor, step: int) -> None:
        """Note that the elements at *indices* are sent in *step*."""
        self.sent_histogram += self._histogram(step - self.last_sent[indices])
        self.last_sent.index_fill_(0, indices, step)

    def note_all_sent(self, step: int) -> None:
        """Note that every element is sent in *step*."""
        for part in self._parts(self.last_sent):
            self.sent_histogram += self._histogram(step - part)
        self.last_sent.fill_(step)

    def sections(self, layout: FlatLayout) -> Sections:
        """Return the sections of a snapshot; *layout* says where each tensor lies."""
        return {
            "last_sent": layout.views(self.last_sent),
            "sent_histogram": {"all": self.sent_histogram},
        }

    def clear_stale(self, velocity: Tensor, step: int, steps: int) -> None:
        """Zero the velocity of elements that were not sent in the last *steps* steps.

        Args:
            velocity: Shape (length,).
            step: The last step.
            steps: At least 1.
        """
        for part, last in zip(self._parts(velocity), self._parts(self.last_sent), strict=True):
            part.masked_fill_(last <= step - steps, 0.0)

    def staleness(self, step: int) -> Staleness:
        """Return both histograms after *step*; an element sent in *step* counts as waiting 1."""
        waiting = torch.zeros_like(self.sent_histogram)
        for part in self._parts(self.last_sent):
            waiting += self._histogram(step + 1 - part)
        return Staleness(self.sent_histogram.tolist(), waiting.tolist())

    def _histogram(self, waits: Tensor) -> Tensor:
        bins = torch.bucketize(waits, self._edges, right=True) - 1
        return torch.bincount(bins.clamp_(0), minlength=NUM_BINS)

    @staticmethod
    def _parts(flat: Tensor) -> Iterator[Tensor]:
        return (flat[start : start + _TILE] for start in range(0, len(flat), _TILE))
