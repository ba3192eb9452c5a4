"""The tail of a group's magnitudes: how what one search has found guides the next threshold.

Far out, the number of magnitudes above x falls by a factor e when x grows by a fraction *width*,
which is about constant nearby.  A search knows two points of that curve: how many it found above
its threshold, and the smallest magnitude that was sent.  So the threshold that lets a wanted number
pass can be read off; guessing by feedback instead would need the slope, which changes a
hundredfold: residuals that wait long for little are dense just below the smallest that is sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

FIRST_SLACK = 1.5  #: residuals grow by about 2 from the first step to the second
FIRST_AIM = 2.0
FIRST_WIDTH = 1 / 12
LEAST_WIDTH, MOST_WIDTH = 5e-4, 1 / 6
FOLDS = 0.2  #: a slope is measured between points that are so many powers of e apart, at least
SHRINKS, GROWS = 0.8, 1.6  #: factors that residuals are expected to change by, at the utmost
MISSED, FOUND = 1.5, 0.99  #: factors on what is aimed at, by what came out


class Goal(NamedTuple):
    """How many candidates there should be."""

    least: float  #: in multiples of what is sent, at least
    most: float  #: and at most
    spare: float  #: and so many more, for groups that send next to nothing
    root: float  #: and the root of what is sent times this, for what chance does


@dataclass(slots=True)
class Tail:
    """What is known of the tails of all groups; float32, shape (num_groups,), each."""

    slack: Tensor  #: a threshold is this times the smallest magnitude sent; may exceed 1
    aim: Tensor  #: candidates aimed at, in multiples of what is sent
    width: Tensor  #: of the tail

    @classmethod
    def of(cls, num_groups: int, device: torch.device) -> Tail:
        """Return what to assume of groups before the first search."""
        values = (FIRST_SLACK, FIRST_AIM, FIRST_WIDTH)
        return cls(
            *(
                torch.full((num_groups,), value, dtype=torch.float32, device=device)
                for value in values
            )
        )

    def learn(
        self, before: Tensor, smallest: Tensor, found: Tensor, counts: Tensor, goal: Goal
    ) -> None:
        """Take in one search, in place, and find the slack of the next threshold.

        Args:
            before: Smallest magnitude that was sent the last time, by group; 0 if too few were.
            smallest: That which is sent this time; 0 if too few are.
            found: Magnitudes above ``before * slack``.
            counts: How many are sent.
            goal: How many should have been found.
        """
        # Quotients and roots of integers would be of torch's default type.
        found, counts = found.to(torch.float32), counts.to(torch.float32)
        threshold = before * self.slack
        known = (smallest > 0) & (threshold > 0)
        folds = (found / counts).log()
        measured = ((smallest / threshold).log() / folds).clamp(LEAST_WIDTH, MOST_WIDTH)
        steep = known & (found > 0) & (folds.abs() > FOLDS)
        self.width.copy_(torch.where(steep, (self.width + measured) / 2, self.width))
        change = torch.full_like(self.aim, FOUND).masked_fill_(found < counts, MISSED)
        self.aim.mul_(change).clamp_(goal.least, goal.most)
        wanted = (self.aim + (goal.spare + goal.root * counts.sqrt()) / counts).log()
        growth = (2 - before / smallest).clamp(SHRINKS, GROWS)  # as much as the last time
        slack = torch.where(known, growth, 1.0) * (-self.width * wanted).exp()
        self.slack.copy_(torch.where((smallest > 0) & (counts > 0), slack, self.slack))
