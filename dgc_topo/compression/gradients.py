"""Gradients, made whole and checked before they touch any state."""

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

#: A quick way to the L2 norm over all tensors together; None if it cannot tell, or a plain way that
#: names what is not finite has to look.
QuickNorm = Callable[[Mapping[str, Tensor]], float | None]


class NonFiniteGradientError(ValueError):
    """A gradient with NaN or infinity; raised before any state has changed.

    A loop that scales the loss may catch it and skip the step, provided that all ranks do.
    """


def whole_gradients(
    where: str, gradients: Gradients, parameters: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """Return one plain dense gradient per parameter, shaped and placed like it.

    A gradient of None (of a layer that is frozen, or took no part in the loss) becomes zeros, one
    of a sparse layout dense.

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
    """Return True if all can be taken as they are, in a quarter of the time of a close look.

    It never fails: whoever looks closely says what is wrong.
    """
    if gradients.keys() != parameters.keys():
        return False
    maybe = [gradients[name] for name in parameters]
    if not _TAKEN_AS_THEY_ARE.issuperset(map(type, maybe)):
        return False
    found = cast(list[Tensor], maybe)
    device = next(iter(parameters.values())).device  # of all, as construction made sure
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
    """Return a gradient of any layout dense; what it lists twice is added in 32 bits at least."""
    if gradient.layout == torch.strided:
        return gradient
    wide = torch.promote_types(gradient.dtype, torch.float32)
    return gradient.to(wide).to_dense()


def checked_norm(
    where: str, gradients: Mapping[str, Tensor], quick: QuickNorm | None = None
) -> float:
    """Return the L2 norm of the whole gradient, which also tells whether it is finite.

    The norms of all tensors come to the host in one copy, so that clipping and checking cost one
    pass and, on a GPU, one synchronisation.

    Args:
        where: What to call the caller in an error.
        gradients: Any shapes; empty tensors are fine.
        quick: Asked first, if there is one.

    Raises:
        NonFiniteGradientError: if an element is NaN, infinite or, as a float32, infinite, or the
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
    """Refuse finite numbers of 64 bits that no float32 can hold; looks at no others.

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
        # No element is larger than the norm, so a norm that a float32 holds needs no second look.
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
