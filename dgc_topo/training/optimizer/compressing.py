"""Rules that send less than everything: their base, and DGC's momentum correction."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from dgc_topo.compression.config import DGCConfig
from dgc_topo.compression.dgc import DGC
from dgc_topo.training.buckets import apply_updates
from dgc_topo.training.carrying import Parked
from dgc_topo.training.marks import check_marks
from dgc_topo.training.optimizer.momentum import (
    check_momentum,
    common_momentum,
    place_of_momentum,
)
from dgc_topo.training.optimizer.rules import Parameters, Rule
from dgc_topo.training.optimizer.snapshots import as_snapshot, check_sections
from dgc_topo.training.ownership import check_place


class HasState(Protocol):
    """A compressor, as far as its state goes; see `Compressor`."""

    def describe(self) -> str:
        """Describe the parameters that are compressed and those that are not."""

    def state_dict(self) -> dict[str, object]:
        """Return a snapshot."""

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Continue from a snapshot."""


class CompressingRule(Rule):
    """Base of rules with a compressor, whose state follows the parameters.

    State of a parameter that gets frozen is put aside, and taken up again when it trains again.

    Attributes:
        compressor: Compressor of the parameters that are trained now.
    """

    compressor: HasState

    def train(self, groups: Sequence[Parameters]) -> None:
        """See `Rule.train`."""
        before = CompressingRule.state(self) if self.parameters else {}
        super().train(groups)
        self.compressor = self._make_compressor()
        self._aside = Parked()
        if before:
            CompressingRule.load_state(self, before)

    def describe(self) -> str:
        """See `Rule.describe`."""
        return self.compressor.describe()

    def state(self) -> dict[str, Any]:
        """Return a snapshot of the compressor's state, of what is put aside, and whose they are."""
        saved = self.compressor.state_dict()
        aside = as_snapshot(self._aside.sections, saved)
        return {"compressor": saved, "aside": aside, "place": self.own.place}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """See `Rule.load_state`; other parameters may have been frozen in the snapshot."""
        try:
            saved, aside, place = state["compressor"], state["aside"], state["place"]
        except KeyError:
            raise ValueError(
                f"{self.where} state: {sorted(state)}, expected 'compressor', 'aside' and 'place'"
            ) from None
        check_place(self.where, place, self.own.place)
        empty = self.compressor.state_dict()
        check_sections(saved, empty)
        parked = Parked(aside)
        parked.add(saved)
        self.compressor.load_state_dict({**saved, **parked.take(empty)})
        self._aside = parked

    @abstractmethod
    def _make_compressor(self) -> HasState:
        """Return a compressor of the parameters that are trained now, without state."""

    def _agreed_factor(self, iteration: int, progress: int) -> float | None:
        """Return the factor that clips this rank's gradient; None if one rank's is not finite.

        Raises:
            DisagreementError: as `Rule.step`.
        """
        factor: float | None = 1.0
        if self.own.contributes:
            factor = self._clip_factor(self._gradients(), self._local_bound)
        marks = self.marks(iteration, progress)
        num_odd, *counts = self.own.counts([factor is None, *marks], self._device, iteration)
        check_marks(self.where, counts, marks)
        return None if num_odd else factor


class MomentumCorrectionRule(CompressingRule):
    """Deep Gradient Compression of SGD: momentum and weight decay move into the compressor.

    The learning rate is that of each of the optimizer's groups, and so is weight decay; momentum is
    one for all.  Clipping is DGC's own, of each rank's gradient.
    """

    name = "momentum correction"
    compressor: DGC

    def check(self) -> None:
        """See `Rule.check`: momentum must not change."""
        check_momentum(self.where, self.optimizer, self._momentum)

    @torch.no_grad()
    def step(self, iteration: int, progress: int) -> bool:
        """See `Rule.step`."""
        factor = self._agreed_factor(iteration, progress)
        if factor is None:
            return False
        self.compressor.set_progress(progress)
        if self.own.contributes:
            payload = self.compressor.compress(self._parts_of_the_mean(factor))
        else:
            payload = self.compressor.neutral()
        self.own.run(payload, iteration)
        updates = self.compressor.finish(payload)
        for group, parameters in zip(self.optimizer.param_groups, self.groups, strict=True):
            own = {name: updates[name] for name in parameters}
            if own:
                apply_updates(parameters, own, float(group["lr"]))
        return True

    def _make_compressor(self) -> DGC:
        self._momentum = common_momentum(self.where, self.optimizer.param_groups)
        momentum, nesterov = self._momentum
        config = replace(self.config, momentum=momentum, nesterov=nesterov)
        compressor = DGC(self.parameters, num_workers=self.own.num_workers, config=config)
        self._take_buffers(compressor, config)
        return compressor

    def _parts_of_the_mean(self, factor: float) -> dict[str, Tensor]:
        """Return this rank's parts of the mean gradient, clipped, with its share of the decay."""
        share = 1 / self.own.num_workers
        parts = {
            name: gradient.to(torch.float32) * (factor * share)
            for name, gradient in self._gradients().items()
        }
        for group, parameters in zip(self.optimizer.param_groups, self.groups, strict=True):
            if group["weight_decay"] and parameters:
                decaying = [parts[name] for name in parameters]
                decay = group["weight_decay"] * share
                torch._foreach_add_(decaying, list(parameters.values()), alpha=decay)
        return parts

    def _take_buffers(self, compressor: DGC, config: DGCConfig) -> None:
        """Take over the momentum that the optimizer has gathered, a share on every rank."""
        state: dict[str, Any] = compressor.state_dict()
        for name, parameter in self.parameters.items():
            section, factor = place_of_momentum(parameter, config, self.own.num_workers)
            own = self.optimizer.state.get(parameter, {})
            if name in state[section] and own.get("momentum_buffer") is not None:
                state[section][name].copy_(own.pop("momentum_buffer")).mul_(factor)
        compressor.load_state_dict(state)
