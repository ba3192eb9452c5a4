"""Which tensors have kernels of their own."""

from __future__ import annotations

import os
import tempfile
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor


def has_kernels(tensor: Tensor) -> bool:
    """Return whether `on_gpu` does the work for what lies where *tensor* does."""
    return tensor.is_cuda and has_triton()


@lru_cache(maxsize=1)
def has_triton() -> bool:
    """Return whether kernels for GPUs can be compiled: Triton comes with torch where there are."""
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
    """Whether a folder is there, or can be made, that this process may write to."""
    try:
        folder = folder.expanduser()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return os.access(folder, os.W_OK)
    except (OSError, RuntimeError):  # the latter where there is no home
        return False
