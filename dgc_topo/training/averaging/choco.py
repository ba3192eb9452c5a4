"""CHOCO-SGD: gossip of compressed changes over a fixed graph (Koloskova, Stich, Jaggi, ICML 2019).

Every rank keeps an *estimate* of its own parameters, which its neighbours know as well: it is the
sum of all that they got from it.  Only its changes travel, compressed::

    local move   x <- x - lr * u
    send         q = C(x - estimate)                the largest elements
    estimate     estimate <- estimate + q
    gap          gap_i <- gap_i + sum_j W[i, j] q_j - q_i    = sum_j W[i, j] estimate_j - estimate_i
    consensus    x <- x + consensus_step * gap

What has not been sent stays in ``x - estimate``, and is sent once it is large: there is no other
residual.  As x moves by the optimizer's whole update, momentum is corrected in it by itself.  The
columns of W sum to 1, so that the gaps of all ranks sum to 0: consensus does not move their mean.

One estimate per rank serves all its neighbours.  One per edge would hold the same numbers, once for
each neighbour, because all of them get the same messages.

What is known of the neighbours is the older the less is sent.  A consensus step that is too long
then leads ranks away from each other: at 1 % of an MLP's elements 0.2 was fine, and 0.5 was not.
By default it is the root of the density, hence 0.1 there, and 1 where everything is sent.

A gap belongs to one graph.  When ranks are lost, estimates travel whole once, and gaps are made
anew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dgc_topo.averaging import Choco
from dgc_topo.compression.assembly import plain_selector
from dgc_topo.compression.layout import FlatLayout
from dgc_topo.payload import BundlePayload, DensePayload, Payload, SparsePayload
from dgc_topo.sizes import is_compressed, is_sparse
from dgc_topo.training.averaging.base import LocalAverager, LocalMove, Parameters, Setup
from dgc_topo.wire.scales import Scales, rounded
from dgc_topo.wire.tensors import TORCH_DTYPES, to_wire


class EstimateChange(NamedTuple):
    """Change of an estimate.

    Attributes:
        indices: Of the elements of the compressed tensors, shape (n,), int64; None for all.
        values: Their changes, shape (n,), float32, as messages hold them.
        others: Changes of the tensors that travel dense, likewise.
        scales: Scales of the values, if they are of 8 bits or fewer.
    """

    indices: Tensor | None
    values: Tensor
    others: Tensor
    scales: Scales | None = None

    def add_to(self, flat: Tensor, sign: float = 1.0) -> None:
        """Add the change, times *sign*, to the tensors in *flat*, the compressed ones first."""
        length = len(flat) - len(self.others)
        flat[length:].add_(self.others, alpha=sign)
        if self.indices is None:
            flat[:length].add_(self.values, alpha=sign)
        else:
            flat[:length].index_add_(0, self.indices, self.values, alpha=sign)


class ChocoAverager(LocalAverager):
    """One rank's estimate and gap: flat, the tensors that are compressed first, then the others.

    Args:
        parameters: See `LocalAverager`; equal on all ranks now, so that everyone knows everyone's.
        local: See `LocalAverager`.
        averaging: The rule's options.
        setup: See `LocalAverager`.

    Attributes:
        estimate: What the neighbours know of this rank's parameters.
        gap: Mixture of the neighbours' estimates and its own, minus its own.
    """

    def __init__(
        self, parameters: Parameters, local: LocalMove, averaging: Choco, setup: Setup
    ) -> None:
        super().__init__(parameters, local, averaging, setup)
        self._given_step, self._step = averaging.consensus_step, 1.0
        compressed = {n: p for n, p in self.parameters.items() if is_compressed(p.shape)}
        others = {n: p for n, p in self.parameters.items() if n not in compressed}
        self._device = next(iter(self.parameters.values())).device
        self._compressed, self._layout = (
            FlatLayout.of(compressed),
            FlatLayout.of(compressed | others),
        )
        self._selector = plain_selector(setup.config, self._compressed, self._device)
        self.estimate = self._layout.flatten(self.parameters, self._device)
        self.gap = torch.zeros_like(self.estimate)
        self._renews = False

    @torch.no_grad()
    def outgoing(self, density: float) -> list[Payload]:
        """See `Averager.outgoing`: the change of the estimate."""
        self._step = self._given_step or math.sqrt(density)
        x = self._layout.flatten(self.parameters, self._device)
        if self._renews:
            self.estimate = x
            return [DensePayload(x.clone(), goals=self.goals)]
        change = self._change(x.sub_(self.estimate), density)
        change.add_to(self.estimate)
        change.add_to(self.gap, -1.0)
        return [self._payload(change)]

    @torch.no_grad()
    def incoming(self, payloads: Sequence[Payload]) -> None:
        """See `Averager.incoming`: the mixture of the ranks' changes."""
        (payload,) = payloads
        if self._renews:
            assert isinstance(payload, DensePayload)
            self.gap, self._renews = payload.buffer - self.estimate, False
        else:
            self._mixed(payload).add_to(self.gap)
        for name, gap in self._layout.views(self.gap).items():
            self.parameters[name].add_(gap, alpha=self._step)

    def renew(self) -> None:
        """Send the estimate whole in the next exchange: the gap was that of another graph."""
        self._renews = True

    def state_dict(self) -> dict[str, Any]:
        """See `Averager.state_dict`: estimate and gap, by parameter name."""
        return {
            "estimate": self._layout.views(self.estimate),
            "gap": self._layout.views(self.gap),
            "renews": self._renews,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Averager.load_state_dict`."""
        self.estimate = self._layout.flatten(state["estimate"], self._device)
        self.gap = self._layout.flatten(state["gap"], self._device)
        self._renews = bool(state["renews"])

    @torch.no_grad()
    def resume_from(
        self, parameters: Sequence[Mapping[str, Tensor]], states: Sequence[Mapping[str, Any]]
    ) -> None:
        """See `Averager.resume_from`: the mean, which is then everyone's estimate, too."""
        super().resume_from(parameters, states)
        self.estimate = self._layout.flatten(self.parameters, self._device)
        self.gap.zero_()
        self._renews = False

    def _change(self, difference: Tensor, density: float) -> EstimateChange:
        """Return what is sent of the difference between parameters and estimate."""
        length, coding = self._compressed.length, self.setup.config.coding
        dtype = TORCH_DTYPES[coding.dense_dtype]
        rest, others = difference[:length], to_wire(difference[length:], dtype)
        if not is_sparse(density):
            return EstimateChange(None, to_wire(rest, dtype), others)
        pool = self._selector.begin(density)
        if pool is not None:
            pool.watch(0, rest)
        indices = self._selector.pick(rest, density)
        if coding.is_coarse:
            layers = self._compressed.inner_bounds
            values, scales = rounded(indices, rest[indices], layers, coding.wire_dtype)
            return EstimateChange(indices, values, others, scales)
        return EstimateChange(indices, to_wire(rest[indices], dtype), others)

    def _payload(self, change: EstimateChange) -> Payload:
        coding = self.setup.config.coding
        if change.indices is None:
            whole = torch.cat([change.values, change.others])
            return DensePayload(whole, coding.dense_dtype, goals=self.goals)
        sparse = SparsePayload(
            change.indices,
            change.values,
            self._compressed.length,
            coding=coding,
            goals=self.goals,
            scales=change.scales,
        )
        others = DensePayload(change.others.clone(), coding.dense_dtype, goals=self.goals)
        return BundlePayload([sparse, others])

    def _mixed(self, payload: Payload) -> EstimateChange:
        """Return the mixture as a change."""
        length = self._compressed.length
        if isinstance(payload, DensePayload):
            return EstimateChange(None, payload.buffer[:length], payload.buffer[length:])
        assert isinstance(payload, BundlePayload)
        sparse, others = payload.parts
        assert isinstance(sparse, SparsePayload)
        assert isinstance(others, DensePayload)
        return EstimateChange(sparse.indices, sparse.values, others.buffer)
