"""Ages: how long elements wait until they are sent, and which velocities that makes stale."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from dgc_topo.compression.layout import FlatLayout
from dgc_topo.compression.state import Sections

NUM_BINS = 32
_TILE = 1 << 20  # elements at once: the temporary memory stays small


class Staleness(NamedTuple):
    """Histograms over waits in steps; bin b counts waits from ``2**b`` to below ``2**(b+1)``.

    An element that is sent in two steps running has waited 1.
    """

    sent: list[int]  #: of all elements ever sent, when they were sent
    waiting: list[int]  #: of all elements now, since they were last sent


class Ages:
    """The step in which each element was last sent: one int32 per element.

    Nothing has to be counted up: what is written are the few elements that are sent.

    Args:
        length: Elements.
        device: Where they are.
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
        """Return what a snapshot holds of it; *layout* says where each tensor lies."""
        return {
            "last_sent": layout.views(self.last_sent),
            "sent_histogram": {"all": self.sent_histogram},
        }

    def clear_stale(self, velocity: Tensor, step: int, steps: int) -> None:
        """Zero the velocity of what has not been sent in the last *steps* steps.

        Args:
            velocity: Shape (length,).
            step: The last step.
            steps: At least 1.
        """
        for part, last in zip(self._parts(velocity), self._parts(self.last_sent), strict=True):
            part.masked_fill_(last <= step - steps, 0.0)

    def staleness(self, step: int) -> Staleness:
        """Return both histograms after *step*; an element just sent waits from 1 on."""
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
