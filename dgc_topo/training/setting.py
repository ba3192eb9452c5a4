"""Setting of a model's tensors to values from elsewhere: another rank's, or a checkpoint's."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

import torch
from torch import Tensor, nn

from dgc_topo.compression.parameters import check_kind


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's parameters and buffers, by name."""
    return dict(chain(model.named_parameters(), model.named_buffers()))


def check_settable(where: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors whose values nobody can send or set.

    Args:
        where: Name of the owner in errors.
        tensors: Parameters and buffers, by name.

    Raises:
        ValueError: naming the first of them that is no plain dense tensor with memory.
    """
    for name, tensor in tensors.items():
        what = f"{where}: {name!r}"
        check_kind(what, tensor)
        if tensor.is_meta:
            raise ValueError(f"{what} is on meta, expected memory: give the model its values first")
        if tensor.layout != torch.strided or tensor.is_quantized:
            kind = tensor.dtype if tensor.is_quantized else tensor.layout
            raise ValueError(
                f"{what} is {kind}, expected a dense tensor; what is the same on all ranks anyway "
                "may be a plain attribute of its module instead of a buffer"
            )


def check_loadable(where: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that ``load_state_dict`` cannot write to.

    Args:
        where: Name of the owner in errors.
        tensors: Parameters and buffers, by name.

    Raises:
        ValueError: naming the first of them that was made with ``expand``.
    """
    for name, tensor in tensors.items():
        if _repeated(tensor):
            raise ValueError(
                f"{where}: elements of {name!r} share memory (an expanded view?), so that torch "
                "cannot load it again; expected memory for each: its clone()"
            )


def elements_of(tensor: Tensor) -> Tensor:
    """Return a view of a tensor's elements, each once where it was made with ``expand``."""
    for dimension in _repeated(tensor):
        tensor = tensor.narrow(dimension, 0, 1)
    return tensor


def _repeated(tensor: Tensor) -> list[int]:
    """Return the dimensions along which there is the same element again and again."""
    if tensor.layout != torch.strided:
        return []
    sides = zip(tensor.shape, tensor.stride(), strict=True)
    return [number for number, (size, stride) in enumerate(sides) if not stride and size > 1]
