"""Parts of a record about what was learnt: quality after each epoch, models, and lost ranks."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt


class Record(BaseModel):
    """Base of records and their parts."""

    # A diverged run has an infinite perplexity, which JSON can hold only as text.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class StalenessCounts(Record):
    """Waiting times of elements: bin b counts those from ``2**b`` to below ``2**(b+1)`` steps.

    An element that is sent in two consecutive steps has waited 1.  Counts are for all workers
    together.
    """

    sent: tuple[NonNegativeInt, ...] = Field(description="elements ever sent, when they were sent")
    waiting: tuple[NonNegativeInt, ...] = Field(description="elements at the end, since last sent")


class LostRank(Record):
    """A rank that was lost, while the others went on."""

    rank: NonNegativeInt
    step: NonNegativeInt = Field(description="from which the others went on without it")


class RankQuality(Record):
    """Quality of the ranks' own models on the whole test set, over the ranks."""

    lowest: float
    mean: float
    highest: float


class QualityPoint(Record):
    """Quality on the test set after some epochs."""

    epoch: NonNegativeInt
    step: NonNegativeInt
    value: float = Field(description="of the ranks' average model")
    train_loss: float | None = None
    density: float | None = Field(
        default=None, description="fraction of the compressed elements sent in this epoch's steps"
    )
    consensus_distance: NonNegativeFloat | None = Field(
        default=None,
        description="L2 distance of a rank's parameters from those of the average model, root mean "
        "square over the ranks; None where all ranks share theirs",
    )
    ranks: RankQuality | None = Field(
        default=None, description="of each rank's own model, if train.evaluate_ranks asks for it"
    )


class Quality(Record):
    """Quality: accuracy (a fraction, higher is better), perplexity or a user's loss (lower)."""

    metric: Literal["accuracy", "perplexity", "loss"]
    points: tuple[QualityPoint, ...] = Field(min_length=1)

    @property
    def final(self) -> float:
        """Quality at the end of training."""
        return self.points[-1].value


class ModelFiles(Record):
    """Files of a run's models, relative to the results folder: state_dicts of `torch.save`."""

    last: str
    best: str
