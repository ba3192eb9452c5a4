"""Types of values in messages, and what rounding to them leaves out."""

from __future__ import annotations

import torch
from torch import Tensor

from dgc_topo.coding import WireDtype

TORCH_DTYPES: dict[WireDtype, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}


def wire_name(where: str, dtype: torch.dtype) -> WireDtype:
    """Return what scenarios call an element type.

    Raises:
        ValueError: if it is none of messages, as "*where*: ...".
    """
    if dtype not in _NAMES:
        names = ", ".join(str(known) for known in _NAMES)
        raise ValueError(f"{where}: wire_dtype {dtype}, expected one of {names}")
    return _NAMES[dtype]


def to_wire(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return *values* as a message can hold them: rounded, and within the range of *dtype*.

    What is left out, ``values - to_wire(values)``, is exact in float32 (of float16 below 2**29),
    so that nothing is lost if it is sent later.

    Args:
        values: float32, finite, any shape.
        dtype: float32 (then nothing changes), float16 or bfloat16.
    """
    if dtype == torch.float32:
        return values
    largest = torch.finfo(dtype).max
    return values.clamp(-largest, largest).to(dtype).to(torch.float32)
