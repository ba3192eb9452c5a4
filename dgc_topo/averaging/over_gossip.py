"""Rules over gossip: ranks mix with their neighbours only, and each has parameters of its own."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from dgc_topo.averaging.rule import GOSSIP, PUSH, Averaging, Every, Outer


class DPSGD(Averaging):
    """D-PSGD (Lian et al., NeurIPS 2017): a mixture of neighbours' parameters, and one's own step.

    ``x_i <- sum_j W[i, j] x_j - learning rate * update_i``, both at the parameters before.
    """

    rule = "d-psgd"
    goals = GOSSIP
    sends = "parameters"
    moves_first = False


class PushSum(Averaging):
    """Stochastic gradient push (Assran et al., ICML 2019), over directed graphs.

    Ranks give shares of their parameters and of a weight away; gradients are those at the quotient.
    """

    rule = "push-sum"
    goals = PUSH
    weighs_itself = True
    sends = "parameters"
    extra_elements = 1


class Choco(Averaging):
    """CHOCO-SGD (Koloskova et al., ICML 2019): compressed changes over a graph that stays."""

    rule = "choco"
    goals = GOSSIP
    sends = "parameters"
    compresses = True
    fixed_schedule = True

    consensus_step: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="share of the way to what is known of the neighbours, by default the root of "
        "the density: what is known is older where less is sent, and too long steps diverge",
    )


class DGCGossip(Choco):
    """DGC over gossip: velocities wait in the residual (momentum correction); D-PSGD's order."""

    rule = "dgc-gossip"
    moves_first = False

    masking: bool = Field(
        default=False, description="reset the velocity of the elements that are sent, as DGC does"
    )


class NoLoCo(Averaging):
    """NoLoCo (Kolehmainen et al. 2025): DiLoCo whose ranks mix with a few others at a time."""

    rule = "no-loco"
    goals = GOSSIP
    sends = "parameters"
    vectors = 2

    every: Every = 50
    outer_learning_rate: float = Field(default=0.7, gt=0)
    outer_momentum: float = Field(default=0.5, ge=0, lt=1)
    nesterov: bool = Field(default=True, description="of the outer momentum, if there is any")
    mixes_momentum: bool = Field(
        default=True,
        description="false as published: changes are mixed, and momentum stays with its rank",
    )
    consensus_step: float = Field(
        default=1.0, gt=0, lt=2, description="share of the way to the mixture, if it stays there"
    )

    @model_validator(mode="after")
    def _options_act(self) -> Self:
        if self.mixes_momentum and self.consensus_step != 1:
            raise ValueError(
                f"consensus_step = {self.consensus_step:g} with mixes_momentum = true, which takes "
                "the mixture whole, expected 1"
            )
        if not self.mixes_momentum and self.nesterov:
            raise ValueError(
                "mixes_momentum = false with nesterov = true: the published step has no Nesterov "
                "momentum of this kind, expected nesterov = false"
            )
        return self

    @property
    def outer(self) -> Outer:
        """The outer rule."""
        nesterov = self.nesterov and self.outer_momentum > 0
        return Outer(self.outer_learning_rate, self.outer_momentum, nesterov)
