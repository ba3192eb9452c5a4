"""The rule for optimizers such as AdamW: each rank's own step, compressed and averaged."""

from __future__ import annotations

from torch.optim import Optimizer

from dgc_topo.averaging import load_averaging
from dgc_topo.compression.config import DGCConfig
from dgc_topo.compression.density import constant_density, geometric_warm_up
from dgc_topo.training.optimizer.averaged import AveragedRule
from dgc_topo.training.own_group import OwnGroup

_STAGES = 8  #: of the warm-up


class UpdateRule(AveragedRule):
    """Compressed updates, for optimizers that are not linear in the gradient, such as AdamW.

    Every rank's optimizer makes its own step on its own gradient.  The changes of the parameters
    that come of it are compressed, with a residual, and averaged: all ranks make the mean change.
    A gradient that is not finite makes all ranks skip the step.  Clipping is that of the rank's own
    gradient, before its optimizer sees it.

    With `look_ahead` a rank works on the shared parameters and that share of what it has not sent:
    it sees its own work at once, and that of the others late.

    Args:
        where: See `Rule`.
        optimizer: See `Rule`.
        own: See `Rule`.
        config: See `Rule`.
        look_ahead: From 0 to 1, see `UpdateCompressor`.
    """

    def __init__(
        self,
        where: str,
        optimizer: Optimizer,
        own: OwnGroup,
        config: DGCConfig,
        look_ahead: float = 0.0,
    ) -> None:
        rule = load_averaging("updates", look_ahead=look_ahead)
        super().__init__(where, optimizer, own, config, rule)
        self.name = "update"
        steps = 0 if config.warm_up == "none" else round(config.warm_up_epochs)
        self._densities = (
            geometric_warm_up(config.density, steps, _STAGES)
            if steps
            else constant_density(config.density)
        )

    def _what(self) -> str:
        return type(self.optimizer).__name__

    def step(self, iteration: int, progress: int) -> bool:
        """See `Rule.step`; also False if the sum over the ranks is not finite.

        Raises:
            NonFiniteGradientError: if this rank's optimizer made a change that is not finite.
        """
        self.compressor.follow()
        factor = self._agreed_factor(iteration, progress)
        if factor is None:
            return False
        self._move(factor)
        return self._exchange(progress)
