"""Tensors in messages: element types, rounding, and devices that have kernels."""

from __future__ import annotations

import math
import os
import tempfile
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from dgc_topo.wire.coding import WireDtype

TORCH_DTYPES: dict[WireDtype, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def largest_addend(dtype: torch.dtype, num_ranks: int) -> float:
    """Return the largest magnitude such that sums of *num_ranks* values stay in *dtype*'s range.

    It is the range over the number of ranks, cut to so few digits that all its multiples up to
    *num_ranks* times are numbers of the type: adding them in any order rounds nothing.  Rounding
    keeps order, so sums of smaller numbers come out no larger.  (More than 2048 ranks in float16,
    or 256 in bfloat16, are more than the type counts: a sum in a row may be rounded up there.)
    """
    info = torch.finfo(dtype)
    digits = 1 - round(math.log2(info.eps))
    spare = max(1, digits - (num_ranks - 1).bit_length())
    mantissa, exponent = math.frexp(info.max / num_ranks)
    return math.ldexp(math.floor(math.ldexp(mantissa, spare)), exponent - spare)


def to_wire(values: Tensor, dtype: torch.dtype, num_ranks: int = 1) -> Tensor:
    """Return *values* as messages can hold them, and their sum over ranks: rounded, within range.

    What is left out, ``values - to_wire(values)``, is exact in float32 (of float16 below 2**29),
    so that nothing is lost if it is sent later.

    Args:
        values: float32, finite, any shape.
        dtype: float32 (then nothing changes), float16 or bfloat16.
        num_ranks: Ranks whose values are summed, see `largest_addend`.
    """
    if dtype == torch.float32:
        return values
    largest = largest_addend(dtype, num_ranks)
    return values.clamp(-largest, largest).to(dtype).to(torch.float32)


def in_numpy(tensor: Tensor) -> bool:
    """Return True if numpy is to do what torch does elsewhere: in CPU memory, in fewer calls."""
    return tensor.is_cpu


def has_kernels(device: torch.device) -> bool:
    """Return True if Triton can write kernels for *device*; they do what plain operations do."""
    return device.type == "cuda" and has_triton()


@lru_cache(maxsize=1)
def has_triton() -> bool:
    """Return True if kernels for GPUs can be compiled: Triton is there."""
    if find_spec("triton") is None:
        return False
    find_cache()
    return True


def find_cache() -> None:
    """Give Triton a folder for what it compiles, where its own cannot be written.

    A home may be missing or read-only.  Without any folder Triton says itself what it needs.
    """
    home = os.environ.get("TRITON_HOME", "~")
    own = os.environ.get("TRITON_CACHE_DIR", f"{home}/.triton/cache")
    if _can_write(Path(own)):
        return
    try:
        other = Path(tempfile.gettempdir(), f"dgc-topo-triton-{os.getuid()}")
    except FileNotFoundError:
        return
    # Whoever owns the folder decides what runs on the GPU.
    if _can_write(other) and other.stat().st_uid == os.getuid():
        os.environ["TRITON_CACHE_DIR"] = str(other)


def _can_write(folder: Path) -> bool:
    """Return True if a folder that this process may write to is there, or can be made."""
    try:
        folder = folder.expanduser()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return os.access(folder, os.W_OK)
    except (OSError, RuntimeError):  # the latter where there is no home
        return False
