"""Plain content: what a checkpoint may hold, so that no file can run code when it is loaded."""

from __future__ import annotations

import hashlib
import struct
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dgc_topo.workers.plain_values import bytes_of

_SCALARS = (bool, int, float, str, bytes, type(None))
_DEEPEST = 100  # containers around a value; one that holds itself has no end
_LONGEST = 80  # characters of a place in an error


def plain(where: str, value: object) -> Any:
    """Return *value* as a checkpoint can hold it: tensors on the CPU, numbers and texts.

    Numbers of numpy become Python's; tensors that are on the CPU already are not copied.

    Args:
        where: Name of the value in errors.
        value: Tensors, numbers, texts, None, and lists, tuples and dictionaries of these.

    Raises:
        ValueError: naming the part that is anything else, or lies too deep.
    """
    return _plain(where, value, 0)


def _plain(where: str, value: object, depth: int) -> Any:
    if isinstance(value, Tensor):
        return _plain_tensor(where, value)
    if isinstance(value, np.generic):
        return _plain(where, value.item(), depth)
    if type(value) in _SCALARS:
        return value
    if isinstance(value, dict | list | tuple) and not hasattr(value, "_fields"):
        return _plain_container(where, value, depth + 1)
    raise ValueError(
        f"{where}: a {type(value).__name__}, expected tensors, numbers, texts, None, or lists, "
        "tuples and dictionaries of them: no checkpoint may run code when it is loaded"
    )


def _plain_container(
    where: str, value: dict[Any, Any] | list[Any] | tuple[Any, ...], depth: int
) -> Any:
    if depth > _DEEPEST:
        raise ValueError(
            f"{where[:_LONGEST]}...: is nested deeper than {_DEEPEST}, or holds itself; expected "
            "something that ends"
        )
    if not isinstance(value, dict):
        found = [_plain(f"{where}[{number}]", each, depth) for number, each in enumerate(value)]
        return found if isinstance(value, list) else tuple(found)
    for key in value:
        if type(key) not in _SCALARS:
            raise ValueError(
                f"{where}: key {key!r} is a {type(key).__name__}, expected text or a number"
            )
    inner = {key: _plain(f"{where}[{key!r}]", each, depth) for key, each in value.items()}
    return OrderedDict(inner) if isinstance(value, OrderedDict) else inner


def _plain_tensor(where: str, value: Tensor) -> Tensor:
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        kind = f"{value.layout} tensor on {value.device}"
        raise ValueError(f"{where}: a {kind}, expected a dense one with values")
    found = value.detach().cpu().resolve_conj().resolve_neg()  # only views know of those bits
    # A view would take its whole base along.
    is_part = found.untyped_storage().nbytes() != found.numel() * found.itemsize
    return found.clone(memory_format=torch.contiguous_format) if is_part else found


def checksum(value: Any) -> str:
    """Return the SHA-256 of plain content: of every key, number and bit of a tensor."""
    digest = hashlib.sha256()
    _feed(digest.update, value)
    return digest.hexdigest()


def _feed(update: Callable[[bytes | memoryview], None], value: Any) -> None:
    if isinstance(value, Tensor):
        update(f"tensor {value.dtype} {tuple(value.shape)};".encode())
        if value.numel():
            update(bytes_of(value.contiguous()).numpy().data)
    elif isinstance(value, dict):
        update(f"dict {len(value)};".encode())
        for key, inner in value.items():
            _feed(update, key)
            _feed(update, inner)
    elif isinstance(value, list | tuple):
        update(f"{type(value).__name__} {len(value)};".encode())
        for inner in value:
            _feed(update, inner)
    elif isinstance(value, float):
        update(b"float" + struct.pack("<d", value))
    else:
        text = repr(value).encode("utf-8", "surrogatepass")
        update(f"{type(value).__name__} {len(text)};".encode() + text)
