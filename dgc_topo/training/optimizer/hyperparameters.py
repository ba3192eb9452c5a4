"""Hyper-parameters of an optimizer, to be the same on every rank: learning rates, decays and so on.

They are those of the optimizer's defaults, as its groups have them now.  Settings of how a step is
computed, such as ``foreach``, may differ.  Numbers are compared to seven digits: a schedule of
learning rates may round otherwise on another machine.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

_HOW = {"foreach", "fused", "capturable", "differentiable"}


def hyperparameters(optimizer: Optimizer) -> dict[str, Any]:
    """Return the hyper-parameters of each group, as JSON values by key."""
    return {
        f"{key} of parameter group {number}": _plain(group[key])
        for number, group in enumerate(optimizer.param_groups)
        for key in _keys(optimizer, group)
    }


class GroupNumber:
    """A number that stands for which parameters an optimizer trains, with which hyper-parameters.

    Args:
        optimizer: The optimizer.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._seen: list[list[Any]] = []
        self._number = 0

    def now(self, trained: Sequence[int]) -> int:
        """Return the number of this moment, in whatever order the groups are.

        Args:
            trained: Number that stands for the parameters that are trained in each group; 0 for a
                group without any.
        """
        groups = zip(trained, self._optimizer.param_groups, strict=True)
        seen = [[own, *_values(self._optimizer, group)] for own, group in groups if own]
        if seen != self._seen:  # most steps are like the one before
            texts = sorted(repr(_plain(each)) for each in seen)
            self._seen, self._number = seen, zlib.crc32("".join(texts).encode())
        return self._number


def _values(optimizer: Optimizer, group: Mapping[str, Any]) -> list[Any]:
    """Return a group's hyper-parameters in the order of their names; numbers for tensors."""
    found = [group[key] for key in _keys(optimizer, group)]
    return [_plain(value) if isinstance(value, Tensor) else value for value in found]


def _keys(optimizer: Optimizer, group: Mapping[str, Any]) -> list[str]:
    return sorted(key for key in optimizer.defaults if key in group and key not in _HOW)


def _plain(value: Any) -> Any:
    """Return a value as JSON has it; a text for what is neither number nor text."""
    if isinstance(value, bool | int | str | None):
        return value
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(f"{value.item():.7g}")
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return type(value).__name__
