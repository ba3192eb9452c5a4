"""Which tensors have kernels of their own."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec

from torch import Tensor


def has_kernels(tensor: Tensor) -> bool:
    """Return whether `on_gpu` does the work for what lies where *tensor* does."""
    return tensor.is_cuda and has_triton()


@lru_cache(maxsize=1)
def has_triton() -> bool:
    """Return whether kernels for GPUs can be compiled: Triton comes with torch where there are."""
    return find_spec("triton") is not None
