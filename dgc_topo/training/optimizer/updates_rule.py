"""The rule for optimizers such as AdamW: each rank's own step, compressed and averaged."""

from __future__ import annotations

from dataclasses import fields

import torch

from dgc_topo.compression.config import DGCConfig
from dgc_topo.compression.gradients import NonFiniteGradientError
from dgc_topo.compression.updates import UpdateCompressor
from dgc_topo.payload import Payload
from dgc_topo.training.optimizer.compressing import CompressingRule
from dgc_topo.training.optimizer.rules import scale_gradients

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
    """

    name = "update"
    compressor: UpdateCompressor

    @torch.no_grad()
    def step(self, iteration: int, progress: int) -> bool:
        """See `Rule.step`; also False if the sum over the ranks is not finite.

        Raises:
            NonFiniteGradientError: if this rank's optimizer made a change that is not finite.
        """
        del progress  # the compressor counts itself
        factor = self._agreed_factor()
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
        torch._foreach_add_(list(self.parameters.values()), list(changes.values()))
        return True

    def _payload(self, factor: float) -> tuple[Payload, NonFiniteGradientError | None]:
        """Return what this rank sends, and the reason if that is nothing; parameters stay."""
        if not self.own.contributes:
            return self.compressor.neutral(), None
        before = {name: p.detach().clone() for name, p in self.parameters.items()}
        scale_gradients(self.parameters, factor)
        self.optimizer.step()
        changes = {name: p.to(torch.float32) - before[name] for name, p in self.parameters.items()}
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
        )
