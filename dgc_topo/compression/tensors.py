"""Which tensors compressors can work on: plain ones, each with memory of its own.

One check for parameters and gradients, and for every compressor.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})


def check_parameters(where: str, parameters: Mapping[str, Tensor]) -> torch.device:
    """Return the device that all parameters share.

    Raises:
        ValueError: if there are none, one is not a plain dense tensor of 16, 32 or 64-bit
            floating-point numbers, devices differ, or two share memory.
    """
    if not isinstance(parameters, Mapping):
        raise ValueError(  # noqa: TRY004  a wrong argument is a wrong value, as everywhere here
            f"{where}: parameters are {type(parameters).__name__}, expected tensors by name: "
            "dict(model.named_parameters())"
        )
    if not parameters:
        raise ValueError(f"{where}: no parameters, expected at least one")
    device: torch.device | None = None
    for name, parameter in parameters.items():
        what = f"{where}: parameter {name!r}"
        if not isinstance(name, str):
            raise ValueError(f"{what}, expected a name that is text")  # noqa: TRY004  as above
        check_kind(what, parameter)
        if parameter.dtype not in DTYPES or parameter.layout != torch.strided:
            raise ValueError(
                f"{what} is {parameter.dtype} and {parameter.layout}, "
                "expected a dense tensor of 16, 32 or 64-bit floating-point numbers"
            )
        device = device or parameter.device
        if parameter.device != device:
            raise ValueError(
                f"{what} is on {parameter.device}, expected {device} like those before it"
            )
        if parameter.is_meta:
            raise ValueError(
                f"{what} is on meta, expected memory: give the model its weights first"
            )
    _check_apart(where, parameters)
    assert device is not None
    return device


def is_frozen(parameter: Tensor) -> bool:
    """Return whether no optimizer would move this parameter: weights that decay leave it alone."""
    return isinstance(parameter, torch.nn.Parameter) and not parameter.requires_grad


def check_kind(what: str, tensor: object) -> None:
    """Refuse what only looks like a tensor with numbers in memory, saying what works instead.

    Args:
        what: Whose it is, for the error.
        tensor: Anything.

    Raises:
        ValueError: if it is no tensor, one without a shape yet, a nested one, or of a class whose
            numbers are elsewhere (DTensor, FakeTensor, quantised weights and the like).
    """
    name = type(tensor).__name__
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{what} is {name}, expected a tensor")  # noqa: TRY004  as above
    if is_lazy(tensor):
        raise ValueError(
            f"{what} has no shape yet, expected one: run the model on a batch first (lazy modules)"
        )
    if hasattr(tensor, "to_local"):
        raise ValueError(
            f"{what} is a {name} (FSDP2, tensor parallel), expected a plain tensor: give this "
            "rank's own part, .to_local(), and sum over the ranks that hold the same part"
        )
    own_numbers = type(tensor).__torch_dispatch__ is Tensor.__torch_dispatch__
    if tensor.is_nested or not own_numbers:
        kind = "nested tensor" if tensor.is_nested else name
        raise ValueError(f"{what} is a {kind}, expected a plain tensor with numbers in memory")


def _check_apart(where: str, parameters: Mapping[str, Tensor]) -> None:
    """Refuse parameters that share memory: their updates would add up.

    Raises:
        ValueError: naming both, or the one whose own elements do.
    """
    begun: list[tuple[int, str, npt.NDArray[Any]]] = []  # where they end, and what they are
    for address, name, parameter in _by_address(where, parameters):
        size = _extent(parameter)
        if parameter.numel() > size:
            raise ValueError(
                f"{where}: elements of parameter {name!r} share memory (an expanded view?), "
                "expected memory for each: its clone()"
            )
        outline = _outline(parameter)
        begun = [each for each in begun if each[0] > address]
        for _, other, there in begun:
            if np.shares_memory(outline, there):
                first, second = sorted((name, other), key=list(parameters).index)
                raise ValueError(
                    f"{where}: parameters {first!r} and {second!r} share memory (tied weights?), "
                    "expected each once: dict(model.named_parameters()) names tied ones once"
                )
        begun.append((address + size * parameter.element_size(), name, outline))


def _by_address(where: str, parameters: Mapping[str, Tensor]) -> list[tuple[int, str, Tensor]]:
    """Return all that have elements, in the order of where they begin."""
    found = []
    for name, parameter in parameters.items():
        try:
            address = parameter.data_ptr()
        except RuntimeError as error:  # inside torch.func, for example
            raise ValueError(
                f"{where}: parameter {name!r} has no memory of its own, expected a plain tensor"
            ) from error
        if parameter.numel():
            found.append((address, name, parameter))
    return sorted(found, key=itemgetter(0))


def _extent(tensor: Tensor) -> int:
    """Return how many elements lie from a tensor's first to its last."""
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return 1 + sum((size - 1) * stride for size, stride in steps)


def _outline(tensor: Tensor) -> npt.NDArray[Any]:
    """Return an array where the tensor is, be it on a GPU: not to be read."""
    width = tensor.element_size()
    interface = {
        "version": 3,
        "shape": tuple(tensor.shape),
        "strides": tuple(width * stride for stride in tensor.stride()),
        "typestr": f"|V{width}",
        "data": (tensor.data_ptr(), True),
    }
    return np.asarray(SimpleNamespace(__array_interface__=interface))
