"""DiLoCo without an all-reduce: anchors and outer momenta are mixed among a few ranks (NoLoCo).

Every rank has an anchor and an outer momentum of its own.  After H local steps::

    change     d = parameters - anchor
    outer      m <- momentum * m + d;  anchor <- anchor + lr * (d + momentum * m)       Nesterov
    exchange   anchor and m are mixed with those of the ranks that the topology names
    start      parameters <- anchor

The outer step is linear: taken before the exchange it gives what it would give after it, to
rounding, if changes were mixed as well.  So two vectors travel instead of three.  Over a complete
graph this is DiLoCo (Douillard et al. 2023).  NoLoCo (Kolehmainen et al. 2025) mixes random pairs;
there the momentum stays with its rank, which is ``mixes_momentum = false``, and gamma is
``consensus_step``::

    exchange   means of anchors and changes, mean(anchor) and mean(d)
    outer      m <- momentum * m + lr * mean(d) + consensus_step * (mean(anchor) - anchor)
               anchor <- anchor + m
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dgc_topo.averaging import NoLoCo
from dgc_topo.compression.layout import FlatLayout
from dgc_topo.payload import DensePayload, Payload
from dgc_topo.training.averaging.base import (
    LocalAverager,
    LocalMove,
    Parameters,
    Setup,
    mean_of,
)
from dgc_topo.training.averaging.outer import OuterSGD


class NoLoCoAverager(LocalAverager):
    """One rank's anchor and outer momentum.

    Args:
        parameters: See `LocalAverager`; equal on all ranks now.
        local: See `LocalAverager`.
        averaging: The rule's options.
        setup: See `LocalAverager`.
    """

    def __init__(
        self, parameters: Parameters, local: LocalMove, averaging: NoLoCo, setup: Setup
    ) -> None:
        super().__init__(parameters, local, averaging, setup)
        self._device = next(iter(self.parameters.values())).device
        self._layout = FlatLayout.of(self.parameters)
        self._anchor = {
            name: p.detach().to(torch.float32, copy=True) for name, p in self.parameters.items()
        }
        self._outer, self._rule = OuterSGD(self._anchor, averaging.outer), averaging
        self._has_moved = False

    @torch.no_grad()
    def follow(self) -> None:
        """See `LocalAverager.follow`; in the middle of a round it is a change like any other."""
        if not self._has_moved:
            _copy(self._anchor, {**self._anchor, **self._others_than(self._anchor)})

    def move(self) -> None:
        """See `Averager.move`."""
        super().move()
        self._has_moved = True

    @torch.no_grad()
    def outgoing(self, density: float) -> list[Payload]:
        """See `Averager.outgoing`: anchor and momentum after the outer step."""
        del density  # they travel whole
        changes = {
            name: p.detach().to(torch.float32) - self._anchor[name]
            for name, p in self.parameters.items()
        }
        if self._rule.mixes_momentum:
            self._outer.step(self._anchor, changes)
        parts = self._parts() if self._rule.mixes_momentum else [self._anchor, changes]
        flats = [self._layout.flatten(part, self._device) for part in parts]
        wire_dtype = self.setup.config.coding.dense_dtype
        return [DensePayload(torch.cat(flats), wire_dtype, goals=self.goals)]

    @torch.no_grad()
    def incoming(self, payloads: Sequence[Payload]) -> None:
        """See `Averager.incoming`."""
        (payload,) = payloads
        assert isinstance(payload, DensePayload)
        if not self._rule.mixes_momentum:
            self._step_as_published(*payload.buffer.chunk(2))
            return
        parts = self._parts()
        for part, flat in zip(parts, payload.buffer.chunk(len(parts)), strict=True):
            _copy(part, self._layout.views(flat))
        self._start_again()

    def _step_as_published(self, anchors: Tensor, changes: Tensor) -> None:
        """Make the outer step of the paper from mixtures."""
        rule, momentum = self._rule, self._outer.momentum()
        means, moves = self._layout.views(anchors), self._layout.views(changes)
        for name, anchor in self._anchor.items():
            move = moves[name].mul_(rule.outer_learning_rate)
            move.add_(means[name] - anchor, alpha=rule.consensus_step)
            if momentum:
                move = momentum[name].mul_(rule.outer_momentum).add_(move)
            anchor.add_(move)
        self._start_again()

    @torch.no_grad()
    def missed(self) -> None:
        """See `Averager.missed`: the rank goes on from its own outer step, or its own steps."""
        if self._rule.mixes_momentum:
            self._start_again()

    def state_dict(self) -> dict[str, Any]:
        """See `Averager.state_dict`: anchor and momentum."""
        return {"anchor": dict(self._anchor), "outer": self._outer.momentum()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Averager.load_state_dict`."""
        self._has_moved = True  # maybe
        _copy(self._anchor, state["anchor"])
        _copy(self._outer.momentum(), state["outer"])

    @torch.no_grad()
    def resume_from(
        self, parameters: Sequence[Mapping[str, Tensor]], states: Sequence[Mapping[str, Any]]
    ) -> None:
        """See `Averager.resume_from`: the means of all."""
        super().resume_from(parameters, states)
        _copy(self._anchor, mean_of([state["anchor"] for state in states]))
        if self._outer.momentum():
            _copy(self._outer.momentum(), mean_of([state["outer"] for state in states]))

    def _start_again(self) -> None:
        self._set(self._anchor)
        self._has_moved = False

    def _parts(self) -> list[dict[str, Tensor]]:
        """Return what is mixed: the anchor, and the momentum if there is one."""
        return [part for part in (self._anchor, self._outer.momentum()) if part]


def _copy(live: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    for name, tensor in live.items():
        tensor.copy_(saved[name])
