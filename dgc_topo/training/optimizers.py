"""Optimizers by name, and the ways in which what came back from the ranks moves the parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dgc_topo.python_files import CodeError, explained
from dgc_topo.training.optimizer_settings import OPTIMIZERS
from dgc_topo.training.own_code import is_own, load_own
from dgc_topo.training.settings import TrainSection


def make_optimizer(train: TrainSection, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """Return the optimizer that *train* names, for those of the parameters that are trained.

    Raises:
        ValueError: if it refuses its options, or the user's own is no optimizer.
    """
    where = f"train.optimizer: {train.optimizer}"
    kind: Callable[..., Any] = (
        load_own(train.optimizer, train.folder, "train.optimizer", train.code)
        if is_own(train.optimizer)
        else getattr(torch.optim, OPTIMIZERS[train.optimizer])
    )
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    with explained(where, f" for train.optimizer_options {_options_of(train)}"):
        made = kind(trained, lr=train.learning_rate, **_options_of(train))
    if not isinstance(made, Optimizer):
        raise CodeError(f"{where}: made {type(made).__name__}, expected a torch.optim.Optimizer")
    return made


def _options_of(train: TrainSection) -> dict[str, Any]:
    if train.is_sgd:
        keys = ("momentum", "nesterov", "weight_decay")
        return {key: getattr(train, key) for key in keys}
    return dict(train.optimizer_options)


def check_optimizer(train: TrainSection) -> None:
    """Refuse an optimizer that cannot be made, or cannot take a step.

    Raises:
        ValueError: naming the key.
    """
    parameter = nn.Parameter(torch.zeros(2, 2))
    parameter.grad = torch.ones(2, 2)
    optimizer = make_optimizer(train, [parameter])
    with explained(f"train.optimizer: {train.optimizer}", " in a step"), torch.enable_grad():
        optimizer.step()


class OptimizerStep:
    """Update by an optimizer that takes the mean gradient; the same on every rank.

    Args:
        parameters: The model's, by name.
        optimizer: An optimizer of those that are trained.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], optimizer: Optimizer) -> None:
        self._parameters, self.optimizer = parameters, optimizer

    def __call__(self, updates: Mapping[str, Tensor], learning_rate: float) -> None:
        """Move the parameters by mean gradients, float32 and shaped like them."""
        for name, gradient in updates.items():
            if self._parameters[name].requires_grad:
                self._parameters[name].grad = gradient
        set_learning_rate(self.optimizer, learning_rate)
        self.optimizer.step()


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Set the learning rate of all of an optimizer's parameters."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
