"""The rule for averaging rules in which each rank's own optimizer moves parameters of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from dgc_topo.averaging import DPSGD, Averaging
from dgc_topo.compression.config import DGCConfig
from dgc_topo.compression.gradients import NonFiniteGradientError
from dgc_topo.compression.layout import FlatLayout
from dgc_topo.payload import Payload
from dgc_topo.training.averaging import LocalAverager, Setup, local_averager
from dgc_topo.training.averaging.changes import ChangeAverager, merged_round
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
        self._attendance = averaging.attendance(own.topology, own.world_size, own.seed)
        own.arrange(self._attendance)

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
        was_set = False
        if self.parameters:
            self.compressor.follow()
            was_set = self.compressor.was_set
        if self.parameters and keeps_together:  # what gets frozen goes back to its shared value
            self._set(self.compressor.shared())
        if self.parameters:
            self.compressor.renew()  # what others know of a parameter ends when it is not trained
        super().train(groups)
        self.compressor.was_set = was_set
        # A frozen parameter may be given other values.
        self._aside.forget("anchor", "x", "estimate", "gap")

    def marks(self, iteration: int, progress: int) -> list[bool]:
        """See `Rule.marks`; all ranks or none have set what they share."""
        counts = self.was_set and self._sums_all
        return super().marks(iteration, 2 * progress + counts)

    @property
    def was_set(self) -> bool:
        """See `Rule.was_set`."""
        return self.compressor.was_set

    def start(self) -> None:
        """See `Rule.start`."""
        self.compressor = self._make_compressor()

    def shared(self) -> dict[str, Tensor]:
        """See `Rule.shared`: what all ranks share now, or the mean of their parts."""
        self.compressor.follow()
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
        averager, is_due = self.compressor, self._takes_part(iteration)
        averager.follow()
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

    def state(self) -> dict[str, Any]:
        """See `Rule.state`; also the change in the round so far, for other numbers of ranks."""
        self.compressor.follow()
        return {**super().state(), "round_change": self.compressor.round_change()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """See `Rule.load_state`.

        After `shared_out` the parameters are set: those of the mean.  In gossip the script has set
        them to that before.
        """
        super().load_state(state)
        if not isinstance(self.compressor, ChangeAverager):
            if "former" in state:
                now = {name: p.detach() for name, p in self.parameters.items()}
                self.compressor.resume_from([now], state["former"])
        elif "goes_on_from" in state:
            self.compressor.go_on(state["goes_on_from"], state["round_change"])

    def _takes_part(self, iteration: int) -> bool:
        """Return True if this rank takes part in an exchange in a step, and note it."""
        if not self.averaging.is_due(iteration):
            return False
        number = iteration // self.averaging.every
        if self.own.rank not in self._attendance.of(number):
            return False
        self.compressor.attend(number, float(self._attendance.renormalised(number)))
        return True

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

    @property
    def _sums_all(self) -> bool:
        """True if every rank is part of every exchange, and all get one sum."""
        return not self.own.gossips and self._attendance.is_full

    def _compare(self, iteration: int) -> None:
        """Compare steps, parameters and hyper-parameters, before a message of another size goes.

        Where all ranks are part of a sum, they are compared with all; in gossip with those that
        this exchange hears from, so that nobody waits for others than without.

        Raises:
            DisagreementError: as `Rule.step`.
        """
        marks, number = self.marks(iteration, 0), iteration // self.averaging.every
        if self._sums_all:
            found = self.own.counts(marks, self._device, iteration)
        else:
            found = self.own.heard(marks, self._device, number, iteration)
        check_marks(self.where, found, marks)

    def _exchange(self, iteration: int) -> bool:
        """Run the schedule on what this rank sends; return False if nobody could use the sum."""
        density = self._densities.density_at(iteration)
        payloads, failure = self._outgoing(density)
        if self.compressor.was_set:  # on all ranks
            self.own.make_equal((self.compressor.common() or {}).values())
            self.compressor.was_set = False
        # A topology that changes does so from one exchange to the next.
        number = iteration // self.averaging.every
        self._catch_up(number, iteration)
        for payload in payloads:
            self.own.run(payload, number, iteration)
        if failure is not None:
            raise failure
        try:
            self.compressor.incoming(payloads)
        except NonFiniteGradientError:
            self.compressor.missed()
            return False
        return True

    def _catch_up(self, number: int, iteration: int) -> None:
        """Get, or give to those that were left out, what all ranks hold alike."""
        behind = self._attendance.behind(number)
        if not len(behind) or not self.compressor.alike():
            return
        if self.own.rank in {*behind.tolist(), *self._attendance.givers(number).tolist()}:
            payload = self.compressor.catch_up()
            self.own.catch_up(payload, number, iteration)
            if self.own.rank in behind:
                self.compressor.caught_up(payload)

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
            goal=self.own.topology.goal,
        )
        return local_averager(
            self.averaging, self.parameters, OwnOptimizer(self.optimizer, self.parameters), setup
        )


def shared_out(own: dict[str, Any], all_of: Sequence[Mapping[str, Any]]) -> None:
    """Have a rank's state of a rule with parameters of its own go on from the mean of all ranks.

    Args:
        own: The new rank's; changed.
        all_of: Those of all former ranks.
    """
    if "round_change" in own:
        own["former"] = [each["compressor"] for each in all_of]
    moved = [each for each in all_of if each.get("round_change")]
    if moved:
        states = [each["compressor"] for each in moved]
        newest, change = merged_round(states, [each["round_change"] for each in moved])
        kept = {key: newest[key] for key in ("anchor", "outer_momentum")}
        own |= {"goes_on_from": kept, "round_change": change}


def _check_settings(where: str, what: str, config: DGCConfig) -> None:
    """Refuse settings that only the compression of gradients has.

    Args:
        where: Name of the owner in errors.
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
