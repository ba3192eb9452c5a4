"""Parameters of a model: which ones compressors accept, and how DGC sends each of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from dgc_topo.scalars import plain_int
from dgc_topo.sizes import FLOAT_BYTES, entries_of, is_compressed, is_sparse
from dgc_topo.wire.coding import DENSE_BYTES, WireCoding

DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})


#: Parameters as people hand them over, see `named_parameters`.
Parameters = nn.Module | Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]


def named_parameters(where: str, given: Parameters) -> dict[str, Tensor]:
    """Return the live parameters by name.

    Args:
        where: Name of the compressor in errors.
        given: A module, tensors by name, or pairs such as ``model.named_parameters()``.

    Raises:
        ValueError: if *given* is none of these, or two pairs have one name.
    """
    if isinstance(given, nn.Module):
        return dict(given.named_parameters())
    if isinstance(given, Mapping):
        return dict(given)
    named: dict[str, Tensor] = {}
    for name, tensor in _pairs(where, given):
        if name in named:
            raise ValueError(f"{where}: parameter {name!r} is there twice, expected each name once")
        named[name] = tensor
    return named


def _pairs(where: str, given: object) -> Iterator[tuple[str, Tensor]]:
    """Yield the pairs of a name and a tensor that *given* consists of."""
    found = type(given).__name__
    if isinstance(given, Iterable) and not isinstance(given, Tensor | str):
        for pair in given:
            if not isinstance(pair, tuple) or len(pair) != 2:  # noqa: PLR2004  name and tensor
                found = f"{found} of {type(pair).__name__}"
                break
            yield pair
        else:
            return
    raise ValueError(
        f"{where}: parameters are {found}, expected a module, tensors by name, or pairs of a name "
        "and a tensor: model.named_parameters()"
    )


def check_parameters(where: str, parameters: Mapping[str, Tensor]) -> torch.device:
    """Return the device that all parameters share.

    Raises:
        ValueError: if there are none, one is not a plain dense tensor of 16, 32 or 64-bit
            floating-point numbers, devices differ, or two share memory.
    """
    if not parameters:
        raise ValueError(f"{where}: no parameters, expected at least one")
    device: torch.device | None = None
    for name, parameter in parameters.items():
        what = f"{where}: parameter {name!r}"
        if not isinstance(name, str):
            raise ValueError(f"{what}, expected a name that is text")  # noqa: TRY004  as above
        check_kind(what, parameter)
        if parameter.dtype not in DTYPES or parameter.layout != torch.strided:
            kind = "" if parameter.layout == torch.strided else f" and {parameter.layout}"
            raise ValueError(
                f"{what} is {parameter.dtype}{kind}, "
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


def count_workers(where: str, given: int | None) -> int:
    """Return the number of workers, by default that of the process group.

    Raises:
        ValueError: if that is no whole number of at least 1, or missing without a process group.
    """
    if given is None and dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    if given is None:
        raise ValueError(
            f"{where}: num_workers None and no process group, expected a whole number, or a call "
            "of torch.distributed.init_process_group before"
        )
    num_workers = plain_int(f"{where}: num_workers", given)
    if num_workers < 1:
        raise ValueError(f"{where}: num_workers {num_workers}, expected at least 1")
    return num_workers


def is_frozen(parameter: Tensor) -> bool:
    """Return True if no optimizer moves this parameter; it gets no weight decay either."""
    return isinstance(parameter, torch.nn.Parameter) and not parameter.requires_grad


def check_kind(what: str, tensor: object) -> None:
    """Refuse a value that is not a plain tensor in memory; the error says what works instead.

    Args:
        what: Name of the value in the error.
        tensor: Value to check.

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
    begun: list[tuple[int, str, npt.NDArray[Any]]] = []  # end address, and name
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
                    "expected each once: model.named_parameters() names tied ones once"
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
    """Return the number of elements from a tensor's first to its last."""
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return 1 + sum((size - 1) * stride for size, stride in steps)


def _outline(tensor: Tensor) -> npt.NDArray[Any]:
    """Return an array at the tensor's address, even on a GPU; its elements must not be read."""
    width = tensor.element_size()
    interface = {
        "version": 3,
        "shape": tuple(tensor.shape),
        "strides": tuple(width * stride for stride in tensor.stride()),
        "typestr": f"|V{width}",
        "data": (tensor.data_ptr(), True),
    }
    return np.asarray(SimpleNamespace(__array_interface__=interface))


def describe_dgc(
    parameters: Mapping[str, Tensor], density: float, coding: WireCoding, where: str = "dgc"
) -> str:
    """Return a table of the parameters that are compressed at *density*, and of the dense ones.

    Each row gives the shape, the elements, the way the tensor travels, the entries it sends per
    step, and their expected bytes.  All compressed tensors are one message: its indices and header
    are shared out by entries.  The first line sums up the table.
    """
    counts = [_count(tensor, density) for tensor in parameters.values()]
    length = sum(t.numel() for t, n in zip(parameters.values(), counts, strict=True) if n)
    entries = max(1, sum(counts))
    sections = float(sum(map(bool, counts)))
    message = coding.expected_bytes(np.array([max(1, length)]), np.array([entries]), sections)
    sizes = float(message[0]) / entries, DENSE_BYTES[coding.wire_dtype]
    rows = [
        _row(name, tensor, count, *sizes)
        for (name, tensor), count in zip(parameters.items(), counts, strict=True)
    ]
    compressed = [row for row in rows if row[3] == "sparse"]
    elements, sent = sum(row[2] for row in rows), round(sum(row[5] for row in rows))
    share = sum(row[2] for row in compressed) / elements if elements else 0.0
    ratio = f", ratio {elements * FLOAT_BYTES / sent:,.1f}" if sent else ""
    verdict = (
        f"{where} at density {density:g} compresses {len(compressed)} of {len(rows)} tensors, "
        f"{share:.2%} of {elements:,} elements: {elements * FLOAT_BYTES:,} -> {sent:,} bytes "
        f"per step{ratio}"
    )
    width = max((len(name) for name in parameters), default=0)
    lines = [
        f"  {name:<{width}}  {shape:>16}  {count:>13,}  {how:<6}  {entries:>11,}  {size:>13,.0f}"
        for name, shape, count, how, entries, size in rows
    ]
    header = (
        f"  {'parameter':<{width}}  {'shape':>16}  {'elements':>13}  {'as':<6}  "
        f"{'sent':>11}  {'bytes':>13}"
    )
    return "\n".join([verdict, header, *lines])


def _count(tensor: Tensor, density: float) -> int:
    """Return the number of entries of a tensor that are sent; 0 if it travels dense."""
    sparse = is_sparse(density) and is_compressed(tensor.shape)
    return entries_of(tensor.numel(), density) if sparse else 0


def _row(
    name: str, tensor: Tensor, entries: int, entry_bytes: float, element_bytes: int
) -> tuple[str, str, int, str, int, float]:
    shape = "x".join(map(str, tensor.shape)) or "scalar"
    count = tensor.numel()
    if entries:
        return name, shape, count, "sparse", entries, entries * entry_bytes
    return name, shape, count, "dense", count, count * element_bytes
