"""Rules over an all-reduce: gradients, or the changes that each rank's own optimizer made."""

from __future__ import annotations

from pydantic import Field, field_validator

from dgc_topo.averaging.rule import ALL_REDUCE, Averaging, Every, Outer, Share


class Gradients(Averaging):
    """The mean of the gradients in every step: data parallel training, dense or with DGC."""

    rule = "gradients"
    goals = ALL_REDUCE
    sends = "gradients"
    compresses = True
    is_local = False
    moves_first = False

    @field_validator("every")
    @classmethod
    def _is_every_step(cls, every: int) -> int:
        if every != 1:
            raise ValueError(
                f"{every} with gradients, which are averaged in every step, expected 1, or "
                f"local-sgd:every={every}"
            )
        return every


class Changes(Averaging):
    """Base of rules that average how each rank's own optimizer changed the parameters.

    Attributes:
        outer: What the mean change does.
        ahead: Share of its unsent changes that a rank already works with.
        decay: Factor of what waits, before the next changes come to it.
    """

    goals = ALL_REDUCE
    sends = "changes"
    compresses = True
    alike_vectors = 1

    @property
    def outer(self) -> Outer:
        """The outer rule."""
        return Outer()

    @property
    def ahead(self) -> float:
        """Share of its unsent changes that a rank already works with."""
        return 0.0

    @property
    def decay(self) -> float:
        """Factor of what waits, before the next changes come to it."""
        return 1.0


class LookingAhead(Changes):
    """Base of rules whose ranks may work with what they have not sent."""

    look_ahead: Share = Field(
        default=0.0, description="share of its unsent changes that a rank already works with"
    )

    @property
    def ahead(self) -> float:
        """See `Changes.ahead`."""
        return self.look_ahead


class Updates(LookingAhead):
    """The mean of the ranks' own steps, compressed with a residual: for AdamW and the like."""

    rule = "updates"


class LocalSGD(Changes):
    """Local SGD (Stich, ICLR 2019): the mean of the parameters after H steps of one's own."""

    rule = "local-sgd"
    every: Every = 10


class DiLoCo(Changes):
    """DiLoCo (Douillard et al. 2023): an outer Nesterov step by the mean change of H steps."""

    rule = "diloco"
    alike_vectors = 2
    every: Every = 50
    outer_learning_rate: float = Field(default=0.7, gt=0)
    outer_momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = Field(default=True, description="of the outer momentum, if there is any")

    @property
    def outer(self) -> Outer:
        """See `Changes.outer`."""
        nesterov = self.nesterov and self.outer_momentum > 0
        return Outer(self.outer_learning_rate, self.outer_momentum, nesterov)


class SparseLoCo(LookingAhead):
    """SparseLoCo (Sarfi et al. 2025): what is not sent of H steps' change waits in a residual."""

    rule = "sparse-loco"
    every: Every = 30
    outer_learning_rate: float = Field(default=1.0, gt=0)
    outer_momentum: float = Field(default=0.0, ge=0, lt=1)
    residual_decay: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="factor of what waits, before the next changes come to it: below 1, as in the "
        "paper, it acts as a momentum that forgets; 1 loses nothing",
    )

    @property
    def outer(self) -> Outer:
        """See `Changes.outer`."""
        return Outer(self.outer_learning_rate, self.outer_momentum)

    @property
    def decay(self) -> float:
        """See `Changes.decay`."""
        return self.residual_decay
