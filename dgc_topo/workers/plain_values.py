"""Plain values and tensors as bytes, without pickling: what a launched function returns.

The bytes are the length of a JSON text (8 bytes, little-endian), the text, and the elements of the
tensors in the text's order.  The text keeps apart what JSON would mix up: lists and tuples, and
keys of dictionaries that are no texts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

_LENGTH_BYTES = 8
_EXPECTED = (
    "expected tensors, arrays, numbers, texts, None, and lists, tuples and dictionaries of these"
)
_KEYS = (str, int, float, bool, type(None))


def write_value(file: IO[bytes], value: Any, name: str) -> None:
    """Write a value; tensors go to the CPU, and lose their gradients.

    Args:
        file: Binary file to write to.
        value: Tensors, NumPy arrays and numbers, JSON values, tuples, and dictionaries of these.
        name: Of the value, in errors.

    Raises:
        ValueError: if a part of it is something else; the text says which.
    """
    tensors: list[Tensor] = []
    tree = _tree(value, name, tensors)
    kinds = [[str(each.dtype).removeprefix("torch."), list(each.shape)] for each in tensors]
    text = json.dumps({"value": tree, "tensors": kinds}).encode()
    file.write(len(text).to_bytes(_LENGTH_BYTES, "little"))
    file.write(text)
    for each in tensors:
        file.write(bytes_of(each).numpy().data)


def read_value(file: IO[bytes]) -> Any:
    """Read the value that `write_value` wrote."""
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    text = json.loads(file.read(length))
    tensors = [_read_tensor(file, dtype, shape) for dtype, shape in text["tensors"]]
    return _value(text["value"], tensors)


def _tree(value: Any, name: str, tensors: list[Tensor]) -> Any:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, np.generic | np.ndarray):
        return _array_tree(value, name, tensors)
    if isinstance(value, Tensor):
        tensors.append(_plain_tensor(value, name))
        return {"tensor": len(tensors) - 1}
    if type(value) in {list, tuple}:
        parts = [_tree(each, f"{name}[{i}]", tensors) for i, each in enumerate(value)]
        return {type(value).__name__: parts}
    if isinstance(value, dict):
        return {
            "dict": [[_key(k, name), _tree(v, f"{name}[{k!r}]", tensors)] for k, v in value.items()]
        }
    raise ValueError(f"{name} is of type {type(value).__qualname__}, {_EXPECTED}")


def _array_tree(value: Any, name: str, tensors: list[Tensor]) -> Any:
    if isinstance(value, np.generic) and isinstance(value.item(), str | bool | int | float):
        return value.item()
    try:
        tensors.append(torch.from_numpy(np.ascontiguousarray(value).copy()))
    except TypeError as error:  # of objects, texts or dates
        raise ValueError(f"{name} is an array of {value.dtype}, {_EXPECTED}") from error
    return {"array": len(tensors) - 1}


def _plain_tensor(value: Tensor, name: str) -> Tensor:
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        raise ValueError(f"{name} is a tensor of layout {value.layout}, expected a dense one")
    return value.detach().cpu().resolve_conj().resolve_neg().contiguous()


def _key(key: Any, name: str) -> Any:
    if not isinstance(key, _KEYS):
        expected = "expected texts and numbers as keys"
        raise ValueError(f"{name} has the key {key!r}, {expected}")  # noqa: TRY004
    return key


def bytes_of(tensor: Tensor) -> Tensor:
    """Return the bytes of a contiguous tensor, sharing its memory."""
    # A lone element that was expanded is contiguous, with a stride that no view takes.
    return tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8)


def _read_tensor(file: IO[bytes], dtype: str, shape: Sequence[int]) -> Tensor:
    found = torch.empty(tuple(shape), dtype=getattr(torch, dtype), device="cpu")
    place: Any = bytes_of(found).numpy().data if math.prod(shape) else b""
    done = 0
    while done < len(place):
        count = file.readinto(place[done:])  # type: ignore[attr-defined]
        if not count:
            raise ValueError(f"a tensor of {shape} ends after {done} bytes, expected {len(place)}")
        done += count
    return found


def _value(tree: Any, tensors: Sequence[Tensor]) -> Any:
    if not isinstance(tree, dict):
        return tree
    [(kind, content)] = tree.items()
    match kind:
        case "tensor":
            return tensors[content]
        case "array":
            return tensors[content].numpy()
        case "dict":
            return {key: _value(part, tensors) for key, part in content}
        case _:
            parts = [_value(part, tensors) for part in content]
            return tuple(parts) if kind == "tuple" else parts
