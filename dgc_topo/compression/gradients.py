"""Parameters and gradients, checked before they touch any state."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

#: A quick way to the L2 norm over all tensors together; None if it cannot tell, or a plain way that
#: names what is not finite has to look.
QuickNorm = Callable[[Mapping[str, Tensor]], float | None]


class NonFiniteGradientError(ValueError):
    """A gradient with NaN or infinity; raised before any state has changed.

    A loop that scales the loss may catch it and skip the step, provided that all ranks do.
    """


def check_parameters(where: str, parameters: Mapping[str, Tensor]) -> torch.device:
    """Return the device that all parameters share.

    Raises:
        ValueError: if there are none, one is not a dense tensor of 16, 32 or
            64-bit floating-point numbers, or devices differ.
    """
    if not parameters:
        raise ValueError(f"{where}: no parameters, expected at least one")
    device = next(iter(parameters.values())).device
    for name, parameter in parameters.items():
        if parameter.dtype not in _DTYPES or parameter.layout != torch.strided:
            raise ValueError(
                f"{where}: parameter {name!r} is {parameter.dtype} and {parameter.layout}, "
                "expected a dense tensor of 16, 32 or 64-bit floating-point numbers"
            )
        if parameter.device != device:
            raise ValueError(
                f"{where}: parameter {name!r} is on {parameter.device}, expected {device} like "
                "those before it"
            )
    return device


def check_gradients(
    where: str, gradients: Mapping[str, Tensor], parameters: Mapping[str, Tensor]
) -> None:
    """Refuse gradients that are not one per parameter, shaped and placed like it.

    Raises:
        ValueError: naming the first parameter at fault.
    """
    if not _fit(gradients, parameters):
        _refuse(where, gradients, parameters)


def _fit(gradients: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> bool:
    """Return whether all is well, in a quarter of the time that it takes to say what is not."""
    if gradients.keys() != parameters.keys():
        return False
    found = [gradients[name] for name in parameters]
    return (
        [gradient.shape for gradient in found] == [p.shape for p in parameters.values()]
        and {gradient.layout for gradient in found} <= {torch.strided}
        and {gradient.device for gradient in found} <= {p.device for p in parameters.values()}
    )


def _refuse(where: str, gradients: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        gradient = gradients.get(name)
        if gradient is None:
            raise ValueError(
                f"{where}: no gradient for parameter {name!r}, expected one for each "
                "(zeros if it was not used)"
            )
        if gradient.shape != parameter.shape or gradient.layout != torch.strided:
            raise ValueError(
                f"{where}: gradient of {name!r} has shape {tuple(gradient.shape)} and is "
                f"{gradient.layout}, expected a dense tensor of shape {tuple(parameter.shape)}"
            )
        if gradient.device != parameter.device:
            raise ValueError(
                f"{where}: gradient of {name!r} is on {gradient.device}, "
                f"expected {parameter.device} like its parameter"
            )
    if len(gradients) > len(parameters):
        unknown = next(name for name in gradients if name not in parameters)
        raise ValueError(
            f"{where}: gradient for unknown parameter {unknown!r}, expected only those given "
            "at construction"
        )


def clip_factor(
    where: str,
    gradients: Mapping[str, Tensor],
    max_norm: float | None,
    quick: QuickNorm | None = None,
) -> float:
    """Return what to multiply the whole gradient with so that its L2 norm is at most *max_norm*.

    The norms of all tensors come to the host in one copy, and they also tell whether every element
    is finite, so that clipping and checking cost one pass and, on a GPU, one synchronisation.

    Args:
        where: What to call the caller in an error.
        gradients: Any shapes; empty tensors are fine.
        max_norm: Bound on the norm over all tensors together; None only checks.
        quick: Asked first, if there is one.

    Returns:
        ``min(1, max_norm / norm)``, or 1 without a bound.

    Raises:
        NonFiniteGradientError: if an element is NaN or infinite, or a tensor's L2 norm overflows
            float32.
    """
    norm = None if quick is None else quick(gradients)
    if norm is None:
        norm = _checked_norm(where, gradients)
    return 1.0 if max_norm is None or norm <= max_norm else max_norm / norm


def _checked_norm(where: str, gradients: Mapping[str, Tensor]) -> float:
    named = {name: gradient for name, gradient in gradients.items() if gradient.numel()}
    if not named:
        return 0.0
    wide = any(gradient.dtype == torch.float64 for gradient in named.values())
    dtype = torch.float64 if wide else torch.float32
    found = torch._foreach_norm(list(named.values()), 2, dtype)  # noqa: SLF001  # no other
    norms: list[float] = torch.stack(list(found)).tolist()
    for name, norm in zip(named, norms, strict=True):
        if not math.isfinite(norm):
            raise NonFiniteGradientError(
                f"{where}: gradient of {name!r} holds NaN or infinity (its norm is {norm}), "
                "expected finite values; lower the learning rate or the loss scale"
            )
    return math.hypot(*norms)
