"""The rule for optimizers such as AdamW: each rank's own step, compressed and averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from dgc_topo.compression.config import DGCConfig
from dgc_topo.compression.gradients import NonFiniteGradientError
from dgc_topo.compression.updates import UpdateCompressor
from dgc_topo.payload import Payload
from dgc_topo.training.optimizer.compressing import CompressingRule
from dgc_topo.training.optimizer.rules import Parameters, scale_gradients
from dgc_topo.training.own_group import OwnGroup

#: Settings that a compressor of updates has, or that the facade has set.
_OF_UPDATES = {
    "density",
    "warm_up",
    "warm_up_epochs",
    "momentum",
    "selection",
    "wire_dtype",
    "index_encoding",
}


class UpdateRule(CompressingRule):
    """Compressed updates, for optimizers that are not linear in the gradient, such as AdamW.

    Every rank's optimizer makes its own step on its own gradient.  The changes of the parameters
    that come of it are compressed, with a residual, and averaged: all ranks make the mean change.
    Clipping is that of the rank's own gradient, before its optimizer sees it.

    With `look_ahead` a rank works on the shared parameters and that share of what it has not sent:
    it sees its own work at once, and that of the others late.

    Args:
        where: See `Rule`.
        optimizer: See `Rule`.
        own: See `Rule`.
        config: See `Rule`.
        look_ahead: From 0 to 1, see `UpdateCompressor`.
    """

    name = "update"
    compressor: UpdateCompressor

    def __init__(
        self,
        where: str,
        optimizer: Optimizer,
        own: OwnGroup,
        config: DGCConfig,
        look_ahead: float = 0.0,
    ) -> None:
        super().__init__(where, optimizer, own, config)
        self._look_ahead = look_ahead
        self._shared: dict[str, Tensor] = {}

    @torch.no_grad()
    def train(self, groups: Sequence[Parameters]) -> None:
        """See `Rule.train`; a parameter that gets frozen goes back to its shared value."""
        held, self._shared = self._shared, {}
        for name, shared in held.items():
            self.parameters[name].copy_(shared)
        super().train(groups)
        if held:
            self.start()
            self._shared |= {name: held[name] for name in self._shared if name in held}
            self._set_parameters()

    def start(self) -> None:
        """See `Rule.start`."""
        if self._look_ahead:
            self._shared = {
                name: p.detach().to(_wide(p), copy=True) for name, p in self.parameters.items()
            }

    def shared(self) -> dict[str, Tensor]:
        """See `Rule.shared`."""
        return self._shared

    def state(self) -> dict[str, Any]:
        """See `Rule.state`; with the shared parameters, where the model has others."""
        return {**super().state(), **({"shared": self._shared} if self._look_ahead else {})}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Any]) -> None:
        """See `Rule.load_state`; sets the parameters, too, if this looks ahead."""
        shared = state.get("shared", {})
        found = {name: tuple(tensor.shape) for name, tensor in shared.items()}
        expected = {name: tuple(tensor.shape) for name, tensor in self._shared.items()}
        if found != expected:
            raise ValueError(
                f"{self.where} state: shared parameters {found}, expected {expected}: the same "
                "look_ahead, and the same parameters frozen"
            )
        super().load_state(state)
        for name, tensor in self._shared.items():
            tensor.copy_(shared[name])
        self._set_parameters()

    @torch.no_grad()
    def step(self, iteration: int, progress: int) -> bool:
        """See `Rule.step`; also False if the sum over the ranks is not finite.

        Raises:
            NonFiniteGradientError: if this rank's optimizer made a change that is not finite.
        """
        factor = self._agreed_factor(iteration, progress)
        if factor is None:
            return False
        payload, failure = self._payload(factor)
        self.own.run(payload, iteration)
        if failure is not None:
            raise failure
        try:
            changes = self.compressor.finish(payload)
        except NonFiniteGradientError:
            self.compressor.give_back()
            return False
        moved = self._shared or self.parameters
        torch._foreach_add_([moved[name] for name in changes], list(changes.values()))
        self._set_parameters()
        return True

    def _set_parameters(self) -> None:
        """Look ahead from the shared parameters."""
        if self._shared:
            ahead = self.compressor.ahead()
            for name, parameter in self.parameters.items():
                parameter.copy_(self._shared[name] + ahead[name])

    def _payload(self, factor: float) -> tuple[Payload, NonFiniteGradientError | None]:
        """Return what this rank sends, and the reason if that is nothing; parameters stay."""
        if not self.own.contributes:
            return self.compressor.neutral(), None
        before = {name: p.detach().clone() for name, p in self.parameters.items()}
        scale_gradients(self.parameters, factor)
        self.optimizer.step()
        changes = {
            name: (p.to(_wide(p)) - before[name]).to(torch.float32)
            for name, p in self.parameters.items()
        }
        for name, parameter in self.parameters.items():
            parameter.copy_(before[name])
        try:
            return self.compressor.compress(changes), None
        except NonFiniteGradientError as error:
            return self.compressor.neutral(), error  # the others must not wait

    def _make_compressor(self) -> UpdateCompressor:
        for each in fields(DGCConfig):
            value = getattr(self.config, each.name)
            if each.name not in _OF_UPDATES and value != each.default:
                raise ValueError(
                    f"{self.where}: {each.name} = {value!r} with {type(self.optimizer).__name__}, "
                    f"expected {each.default!r}: updates are compressed, not gradients"
                )
        return UpdateCompressor(
            self.parameters,
            num_workers=self.own.num_workers,
            density=self.config.density,
            warm_up_steps=0 if self.config.warm_up == "none" else round(self.config.warm_up_epochs),
            selection=self.config.selection,
            wire_dtype=self.config.wire_dtype,
            index_encoding=self.config.index_encoding,
            look_ahead=self._look_ahead,
        )


def _wide(parameter: Tensor) -> torch.dtype:
    """Return a type of at least 32 bits that holds every value of a parameter."""
    return torch.promote_types(parameter.dtype, torch.float32)
