"""The rule for averaging rules in which each rank's own optimizer moves parameters of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import torch
from torch import Tensor
from torch.optim import Optimizer

from dgc_topo.averaging import DPSGD, Averaging
from dgc_topo.compression.config import DGCConfig
from dgc_topo.compression.gradients import NonFiniteGradientError
from dgc_topo.compression.layout import FlatLayout
from dgc_topo.payload import Payload
from dgc_topo.training.averaging import LocalAverager, Setup, local_averager
from dgc_topo.training.marks import check_marks
from dgc_topo.training.optimizer.compressing import CompressingRule
from dgc_topo.training.optimizer.rules import Parameters, scale_gradients
from dgc_topo.training.own_group import OwnGroup

#: Settings that a compressor of updates has, or that the facade has set.
_OF_UPDATES = {
    "density",
    "warm_up",
    "warm_up_epochs",
    "warm_up_stages",
    "momentum",
    "selection",
    "wire_dtype",
    "index_encoding",
}


class AveragedRule(CompressingRule):
    """Steps of one's own, and an exchange in every H-th of them; see `dgc_topo.averaging`.

    A gradient that is not finite skips the step of its own rank alone; the exchange goes on.
    Clipping is that of the rank's own gradient.

    Args:
        where: See `Rule`.
        optimizer: See `Rule`.
        own: See `Rule`.
        config: See `Rule`.
        averaging: The averaging rule.

    Attributes:
        compressor: This rank's side of it.
    """

    compressor: LocalAverager

    def __init__(
        self,
        where: str,
        optimizer: Optimizer,
        own: OwnGroup,
        config: DGCConfig,
        averaging: Averaging,
    ) -> None:
        super().__init__(where, optimizer, own, config)
        self.averaging = averaging
        # D-PSGD is older than the other rules, and so is its name in snapshots.
        self.name = "gossip" if averaging == DPSGD() else str(averaging)
        self._densities = config.density_schedule()

    def train(self, groups: Sequence[Parameters]) -> None:
        """See `Rule.train`.

        Raises:
            ValueError: if other parameters are trained in the middle of a round.
        """
        keeps_together = self.averaging.sends == "changes"
        if self.parameters and keeps_together and not self.compressor.agrees:
            raise ValueError(
                f"{self.where}: other parameters are trained in the middle of a round of "
                f"{self.averaging.label}, expected that after an exchange, when steps is a "
                f"multiple of {self.averaging.every}"
            )
        if self.parameters and keeps_together:  # what gets frozen goes back to its shared value
            self._set(self.compressor.shared())
        if self.parameters:
            self.compressor.renew()  # what others know of a parameter ends when it is not trained
        super().train(groups)
        # A frozen parameter may be given other values.
        self._aside.forget("anchor", "x", "estimate", "gap")

    def start(self) -> None:
        """See `Rule.start`."""
        self.compressor = self._make_compressor()

    def shared(self) -> dict[str, Tensor]:
        """See `Rule.shared`: what all ranks share now, or the mean of their parts."""
        shared = self.compressor.shared()
        if self.compressor.agrees:
            return shared
        layout = FlatLayout.of(self.parameters)
        share = self.own.world_size / self.own.num_workers if self.own.contributes else 0.0
        return layout.views(self.own.mean(layout.flatten(shared, self._device).mul_(share)))

    @torch.no_grad()
    def step(self, iteration: int, progress: int) -> bool:
        """See `Rule.step`; also False if the sum over the ranks is not finite.

        Raises:
            NonFiniteGradientError: if this rank's optimizer made a change that is not finite.
        """
        del progress  # ranks skip steps of their own
        averager, is_due = self.compressor, self.averaging.is_due(iteration)
        factor = self._own_factor()
        averager.prepare()
        if averager.moves_first:
            self._move(factor)
        if is_due:
            self._compare(iteration)
            if not self._exchange(iteration):
                return False
        if not averager.moves_first:
            self._move(factor)
        return factor is not None

    def _own_factor(self) -> float | None:
        """Return the factor that clips this rank's gradient; None if that is not finite."""
        if not self.own.contributes:
            return 1.0
        return self._clip_factor(self._gradients(), self.clip_norm)

    def _move(self, factor: float | None) -> None:
        if factor is None:
            self.compressor.skip()
            return
        if self.own.contributes:
            scale_gradients(self.parameters, factor)
        self.compressor.move()

    def _compare(self, iteration: int) -> None:
        """Compare steps and parameters before an all-reduce, of which all ranks have to be part.

        Raises:
            DisagreementError: as `Rule.step`.
        """
        if self.averaging.sends == "changes":
            marks = self.marks(iteration, 0)
            counts = self.own.counts(marks, self._device)
            check_marks(self.where, counts, marks, self.own.world_size)

    def _exchange(self, iteration: int) -> bool:
        """Run the schedule on what this rank sends; return False if nobody could use the sum."""
        density = self._densities.density_at(iteration)
        payloads, failure = self._outgoing(density)
        for payload in payloads:
            # A topology that changes does so from one exchange to the next.
            self.own.run(payload, iteration // self.averaging.every)
        if failure is not None:
            raise failure
        try:
            self.compressor.incoming(payloads)
        except NonFiniteGradientError:
            self.compressor.missed()
            return False
        return True

    def _outgoing(self, density: float) -> tuple[list[Payload], NonFiniteGradientError | None]:
        """Return what this rank sends, and the reason if that adds nothing."""
        try:
            return self.compressor.outgoing(density), None
        except NonFiniteGradientError as error:
            return self.compressor.neutral(density), error  # the others must not wait

    def _what(self) -> str:
        """Return what compresses updates, for errors."""
        return f"averaging {self.averaging.label}"

    def _make_compressor(self) -> LocalAverager:
        if self.averaging.compresses:
            _check_settings(self.where, self._what(), self.config)
        setup = Setup(
            num_workers=self.own.num_workers,
            config=self.config,
            trains=self.own.contributes,
            place=self.own.contributors.index(self.own.rank) if self.own.contributes else 0,
        )
        return local_averager(
            self.averaging, self.parameters, OwnOptimizer(self.optimizer, self.parameters), setup
        )


def _check_settings(where: str, what: str, config: DGCConfig) -> None:
    """Refuse settings that only the compression of gradients has.

    Args:
        where: What to call the owner in errors.
        what: What compresses updates.
        config: The settings.

    Raises:
        ValueError: naming the first of them.
    """
    for each in fields(DGCConfig):
        value = getattr(config, each.name)
        if each.name not in _OF_UPDATES and value != each.default:
            raise ValueError(
                f"{where}: {each.name} = {value!r} with {what}, "
                f"expected {each.default!r}: updates are compressed, not gradients"
            )


class OwnOptimizer:
    """The user's optimizer as a `LocalMove`; its gradients are in the parameters.

    Args:
        optimizer: The optimizer.
        parameters: Those that it trains, by name.
    """

    def __init__(self, optimizer: Optimizer, parameters: Parameters) -> None:
        self._optimizer, self._parameters = optimizer, parameters

    def prepare(self) -> None:
        """See `LocalMove.prepare`: the gradients stay where they are."""

    def move(self) -> None:
        """See `LocalMove.move`."""
        self._optimizer.step()

    def momenta(self) -> dict[str, Tensor]:
        """See `LocalMove.momenta`."""
        found = {
            name: self._optimizer.state.get(p, {}).get("momentum_buffer")
            for name, p in self._parameters.items()
        }
        return {name: buffer for name, buffer in found.items() if buffer is not None}
