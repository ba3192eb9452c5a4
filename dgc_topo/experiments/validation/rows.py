"""One row per measured case: measured, predicted, and the signed error between them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt

from dgc_topo.units import rate_text

COLLECTIVES, TRAINING_STEPS = "collectives", "training steps"  #: groups of rows

#: Rows from so many bytes on are large: what a link or a processor can carry decides.
LARGE_BYTES = 1_000_000


class Row(BaseModel):
    """What was measured of one case, and what the calibrated model had predicted for it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    group: str = Field(description="collectives, or training steps")
    name: str = Field(description="topology and options")
    world_size: PositiveInt
    rate_bits_per_s: float | None = Field(default=None, description="of the links; None unshaped")
    payload: str = Field(description="dense, or density and elements of a sparse buffer")
    num_bytes: NonNegativeFloat = Field(description="of the buffer; sparse: of one rank's message")
    bytes_sent: NonNegativeFloat = Field(description="by the busiest rank, as the executor counts")
    measured_s: float = Field(gt=0)
    spread: NonNegativeFloat = Field(description="between the quartiles of the rounds, relative")
    attempts: PositiveInt = Field(default=1, description="measurements; more if disturbed")
    rounds: PositiveInt = Field(default=1, description="behind the median")
    in_usual_state: bool = Field(
        default=True, description="whether the machine was as it was when it was calibrated"
    )
    load: NonNegativeFloat = Field(default=0.0, description="load average of the machine")
    predicted_s: float = Field(gt=0)

    @property
    def error(self) -> float:
        """Signed relative error: above 0 if the prediction was too slow."""
        return self.predicted_s / self.measured_s - 1

    @property
    def is_large(self) -> bool:
        """Whether the buffer has a megabyte or more."""
        return self.num_bytes >= LARGE_BYTES


class Summary(NamedTuple):
    """Absolute errors of some rows."""

    what: str
    num_rows: int
    median: float
    percentile_95: float
    worst: float


def summarize(rows: Sequence[Row]) -> list[Summary]:
    """Return a summary per group, rate and size class; those without rows are left out."""
    summaries = []
    for group in dict.fromkeys(row.group for row in rows):
        for rate in dict.fromkeys(row.rate_bits_per_s for row in rows):
            here = [r for r in rows if (r.group, r.rate_bits_per_s) == (group, rate)]
            link = rate_text(rate)
            if group == TRAINING_STEPS:
                classes = {"": here}
            else:
                classes = {
                    ", 1 MB and more": [row for row in here if row.is_large],
                    ", below 1 MB": [row for row in here if not row.is_large],
                }
            for size, some in classes.items():
                if some:
                    summaries.append(_summary(f"{group}, {link}{size}", some))
    return summaries


def _summary(what: str, rows: Iterable[Row]) -> Summary:
    errors = np.abs([row.error for row in rows])
    return Summary(
        what,
        len(errors),
        float(np.median(errors)),
        float(np.percentile(errors, 95)),
        float(errors.max()),
    )
