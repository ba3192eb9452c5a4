"""Gradients in front of a compressor: made whole, and checked before any state changes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeGuard, cast

import torch
from torch import Tensor

from dgc_topo.compression.parameters import DTYPES, check_kind
from dgc_topo.compression.values import FLOAT32_MAX

#: Layouts of sparse gradients, as ``nn.Embedding(sparse=True)`` gives them.
_SPARSE = frozenset(
    {torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc}
)
_TAKEN_AS_THEY_ARE = frozenset({Tensor, torch.nn.Parameter})

#: As `Compressor.compress` gets them.
Gradients = Mapping[str, Tensor | None]

#: A fast function for the L2 norm over all tensors together.  It returns None if the slow function
#: must be used, which also names the gradient that is not finite.
QuickNorm = Callable[[Mapping[str, Tensor]], float | None]


class NonFiniteGradientError(ValueError):
    """A gradient with NaN or infinity; raised before any state has changed.

    A loop that scales the loss may catch this error and skip the step, if all ranks do so.
    """


def whole_gradients(
    where: str, gradients: Gradients, parameters: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """Return one plain dense gradient per parameter, with its shape and device.

    None (a frozen layer, or one that took no part in the loss) becomes zeros.  A gradient of a
    sparse layout becomes dense.

    Raises:
        ValueError: naming the first parameter whose gradient is missing or of another kind.
    """
    if not isinstance(gradients, Mapping):
        raise ValueError(  # noqa: TRY004  a wrong argument is a wrong value, as everywhere here
            f"{where}: gradients are {type(gradients).__name__}, expected one for each parameter, "
            "by name"
        )
    if _fit(gradients, parameters):
        return gradients
    filled = {
        name: torch.zeros_like(parameters[name]) if given is None and name in parameters else given
        for name, given in gradients.items()
    }
    if _fit(filled, parameters):
        return filled
    whole = {name: _whole(where, name, filled, p) for name, p in parameters.items()}
    if len(gradients) > len(parameters):
        unknown = next(name for name in gradients if name not in parameters)
        raise ValueError(
            f"{where}: gradient for unknown parameter {unknown!r}, expected only those given "
            "at construction"
        )
    return whole


def _fit(gradients: Gradients, parameters: Mapping[str, Tensor]) -> TypeGuard[Mapping[str, Tensor]]:
    """Return True if all gradients can be used as they are; a close check takes four times longer.

    This function raises no errors: the close check that follows a False names what is wrong.
    """
    if gradients.keys() != parameters.keys():
        return False
    maybe = [gradients[name] for name in parameters]
    if not _TAKEN_AS_THEY_ARE.issuperset(map(type, maybe)):
        return False
    found = cast(list[Tensor], maybe)
    device = next(iter(parameters.values())).device  # one for all, as checked at construction
    try:
        shapes = [gradient.shape for gradient in found]
    except RuntimeError:  # a nested tensor has none
        return False
    return (
        shapes == [parameter.shape for parameter in parameters.values()]
        and {gradient.layout for gradient in found} <= {torch.strided}
        and {gradient.dtype for gradient in found} <= DTYPES
        and {gradient.device for gradient in found} <= {device}
    )


def _whole(where: str, name: str, gradients: Gradients, parameter: Tensor) -> Tensor:
    """Return one parameter's gradient, checked."""
    if name not in gradients:
        raise ValueError(
            f"{where}: no gradient for parameter {name!r}, expected one for each "
            "(None if it was not used)"
        )
    gradient = gradients[name]
    assert gradient is not None  # zeros by now
    what = f"{where}: gradient of {name!r}"
    check_kind(what, gradient)
    known = gradient.layout in _SPARSE or gradient.layout == torch.strided
    if gradient.shape != parameter.shape or not known:
        kind = "" if gradient.layout == torch.strided else f" and is {gradient.layout}"
        raise ValueError(
            f"{what} has shape {tuple(gradient.shape)}{kind}, "
            f"expected a dense tensor of shape {tuple(parameter.shape)}"
        )
    if gradient.dtype not in DTYPES:
        raise ValueError(
            f"{what} is {gradient.dtype}, expected 16, 32 or 64-bit floating-point numbers"
        )
    if gradient.device != parameter.device:
        raise ValueError(
            f"{what} is on {gradient.device}, expected {parameter.device} like its parameter"
        )
    return _dense(gradient).as_subclass(Tensor)


def _dense(gradient: Tensor) -> Tensor:
    """Return a gradient as a dense tensor; repeated entries are added in at least 32 bits."""
    if gradient.layout == torch.strided:
        return gradient
    wide = torch.promote_types(gradient.dtype, torch.float32)
    return gradient.to(wide).to_dense()


def checked_norm(
    where: str, gradients: Mapping[str, Tensor], quick: QuickNorm | None = None
) -> float:
    """Return the L2 norm of the whole gradient, and refuse a gradient that is not finite.

    The norms of all tensors come to the host in one copy, so that clipping and checking cost one
    pass and, on a GPU, one synchronisation.

    Args:
        where: Name of the caller in errors.
        gradients: Tensors of any shapes; empty tensors are fine.
        quick: Fast norm that is tried first, or None.

    Raises:
        NonFiniteGradientError: if an element is NaN, infinite, or too large for a float32, or the
            L2 norm of a tensor of at most 32 bits overflows float32.
    """
    norm = None if quick is None else quick(gradients)
    return _checked_norm(where, gradients) if norm is None else norm


def clip_factor(norm: float, max_norm: float | None) -> float:
    """Return the factor that clips a gradient of this norm: ``min(1, max_norm / norm)``.

    Without a bound it is 1.
    """
    return 1.0 if max_norm is None or norm <= max_norm else max_norm / norm


def check_float32(where: str, gradients: Mapping[str, Tensor]) -> None:
    """Refuse float64 gradients whose finite numbers exceed float32; read no other gradients.

    Raises:
        NonFiniteGradientError: naming the gradient that has one.
    """
    for name, gradient in gradients.items():
        if gradient.dtype == torch.float64:
            too_large = gradient.to(torch.float32).isinf() & gradient.isfinite()
            if bool(too_large.any()):
                raise _not_finite(where, name, "numbers beyond float32")


def _checked_norm(where: str, gradients: Mapping[str, Tensor]) -> float:
    named = {name: gradient for name, gradient in gradients.items() if gradient.numel()}
    if not named:
        return 0.0
    wide = any(gradient.dtype == torch.float64 for gradient in named.values())
    dtype = torch.float64 if wide else torch.float32
    found = torch._foreach_norm(list(named.values()), 2, dtype)  # noqa: SLF001  # no other
    norms: list[float] = torch.stack(list(found)).tolist()
    for (name, gradient), norm in zip(named.items(), norms, strict=True):
        # No element is larger than the norm: if the norm fits a float32, so does each element.
        if not norm <= FLOAT32_MAX:
            finite = bool(gradient.to(torch.float32).isfinite().all())
            if not (finite and math.isfinite(norm)):
                holds = "numbers so large that" if finite else "NaN or infinity (as float32):"
                raise _not_finite(where, name, f"{holds} its norm is {norm}")
    return math.hypot(*norms)


def _not_finite(where: str, name: str, holds: str) -> NonFiniteGradientError:
    return NonFiniteGradientError(
        f"{where}: gradient of {name!r} holds {holds}, expected finite values; lower the learning "
        "rate or the loss scale"
    )
