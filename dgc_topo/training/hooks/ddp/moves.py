"""`Moves`: the steps of optimizers between backward passes, by which ranks could part unseen."""

from __future__ import annotations

import zlib
from typing import Any
from weakref import WeakKeyDictionary

from torch.optim import Optimizer

from dgc_topo.training.optimizer.hyperparameters import GroupNumber, hyperparameters


class Moves:
    """The steps that optimizers make, and their hyper-parameters: to be the same on every rank.

    Attributes:
        steps: Number of the steps of all optimizers so far.
    """

    def __init__(self) -> None:
        self.steps = 0
        self._numbers: WeakKeyDictionary[Optimizer, GroupNumber] = WeakKeyDictionary()
        self._latest: dict[int, int] = {}  # of each optimizer, in the order of their first steps

    def note(self, optimizer: Optimizer) -> None:
        """Note that an optimizer is about to make a step."""
        self.steps += 1
        number = self._numbers.get(optimizer)
        if number is None:
            number = self._numbers[optimizer] = GroupNumber(optimizer)
        self._latest[id(optimizer)] = number.now([1] * len(optimizer.param_groups))

    @property
    def number(self) -> int:
        """A number that stands for all that is compared."""
        return zlib.crc32(repr([self.steps, *self._latest.values()]).encode())

    def described(self) -> dict[str, Any]:
        """Return what is compared as JSON values by key, to name a difference."""
        found: dict[str, Any] = {"optimizer steps": self.steps}
        for place, optimizer in enumerate(self._numbers):
            which = f" of optimizer {place}" if place else ""
            found |= {f"{key}{which}": each for key, each in hyperparameters(optimizer).items()}
        return found
