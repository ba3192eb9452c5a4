"""Learning rates over the steps of a training: a decay by name, and a linear warm-up before it.

Each is a function of the step alone, so a training that is resumed needs no state of it.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any

OptionValue = bool | int | float | str | tuple[int | float, ...]

#: Options of the decays that come with the package, with their defaults.
DECAYS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "constant": {},
        "cosine": {"final_factor": 0.0},
        "linear": {"final_factor": 0.0},
        "step": {"every_epochs": 30.0, "factor": 0.1},
    }
)

#: Schedulers of torch.optim.lr_scheduler that are functions of the step alone.
TORCH_DECAYS = (
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "ExponentialLR",
    "LinearLR",
    "MultiStepLR",
    "OneCycleLR",
    "PolynomialLR",
    "StepLR",
)

_ALL_STEPS = ("total_steps", "T_max")  # parameters that mean the whole training, unless given


def check_decay(name: str, options: Mapping[str, OptionValue]) -> None:
    """Refuse options that a decay of the package does not have; torch checks those of its own.

    Raises:
        ValueError: naming the option.
    """
    if name not in DECAYS:
        return
    known = DECAYS[name]
    for key, value in options.items():
        where = f"learning_rate_options.{key}"
        if key not in known:
            listed = f"expected some of {', '.join(known)}" if known else "expected none"
            raise ValueError(f"{where}: learning_rate_decay {name!r} has no such option, {listed}")
        least_excluded = key == "every_epochs"
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 <= float(value) < math.inf or (least_excluded and not value):  # type: ignore[arg-type]
            bound = "above 0" if least_excluded else "of at least 0"
            raise ValueError(f"{where} = {value!r}: expected a number {bound}")


def factor_at(
    name: str, options: Mapping[str, OptionValue], step: int, num_steps: int, epochs: float
) -> float:
    """Return the factor of the learning rate in a step, by a decay of the package.

    Args:
        name: One of `DECAYS`.
        options: Its options.
        step: Number of the step, from 0.
        num_steps: Number of steps of the whole training.
        epochs: Epochs before the step, fractions included.
    """
    own = {**DECAYS[name], **options}
    done = step / num_steps
    if name == "step":
        passed = math.floor(epochs / float(own["every_epochs"]))  # type: ignore[arg-type]
        return float(own["factor"]) ** passed  # type: ignore[arg-type]
    if name == "constant":
        return 1.0
    final = float(own["final_factor"])  # type: ignore[arg-type]
    falling = 0.5 * (1 + math.cos(math.pi * done)) if name == "cosine" else 1 - done
    return falling if not final else final + (1 - final) * falling


def torch_rates(
    name: str, options: Mapping[str, OptionValue], learning_rate: float, num_steps: int
) -> tuple[float, ...]:
    """Return the learning rate of every step, by a scheduler of torch.

    It advances once per training step; a length that is not given is that of the training.

    Args:
        name: One of `TORCH_DECAYS`.
        options: Arguments of the scheduler, beside the optimizer.
        learning_rate: That of the optimizer.
        num_steps: Number of steps of the whole training.

    Raises:
        ValueError: if the scheduler refuses its options.
    """
    return _rates(name, tuple(sorted(options.items())), learning_rate, num_steps)


@lru_cache(maxsize=8)
def _rates(
    name: str, options: tuple[tuple[str, OptionValue], ...], learning_rate: float, num_steps: int
) -> tuple[float, ...]:
    import torch  # noqa: PLC0415 - reading a scenario needs none

    kind: Callable[..., Any] = getattr(torch.optim.lr_scheduler, name)
    parameters = inspect.signature(kind).parameters
    given: dict[str, Any] = {key: _plain(value) for key, value in options}
    unknown = [key for key in given if key not in parameters or key in {"optimizer", "last_epoch"}]
    if unknown:
        known = [key for key in parameters if key not in {"optimizer", "last_epoch"}]
        raise ValueError(
            f"learning_rate_options: {name} takes no {', '.join(unknown)}, expected some of "
            f"{', '.join(known)}"
        )
    if given.get("cycle_momentum"):
        raise ValueError(
            "learning_rate_options.cycle_momentum = true: only learning rates change, expected none"
        )
    if "cycle_momentum" in parameters:
        given["cycle_momentum"] = False
    given |= {key: num_steps for key in _ALL_STEPS if key in parameters and key not in given}
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=learning_rate)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the order of calls: nothing is trained here
            scheduler = kind(optimizer, **given)
            rates = []
            for _ in range(num_steps):
                rates.append(float(optimizer.param_groups[0]["lr"]))
                if len(rates) < num_steps:
                    scheduler.step()
    except (TypeError, ValueError, ArithmeticError, IndexError, AttributeError) as error:
        raise ValueError(f"learning_rate_options: {name} refuses them: {error}") from error
    _check_rates(name, rates)
    return tuple(rates)


def _check_rates(name: str, rates: Sequence[float]) -> None:
    for step, rate in enumerate(rates):
        if not 0 <= rate < math.inf:
            raise ValueError(
                f"learning_rate_options: {name} makes the rate {rate} of step {step}, expected "
                "numbers of at least 0"
            )


def _plain(value: OptionValue) -> Any:
    return list(value) if isinstance(value, tuple) else value
