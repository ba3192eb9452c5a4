"""Which device a worker uses, and which backend can serve the devices of all workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

WantedDevice = Literal["auto", "cpu", "cuda"]
WantedBackend = Literal["auto", "gloo", "nccl"]


def choose_device(wanted: WantedDevice, local_rank: int) -> torch.device:
    """Return the device of the process with this rank on its machine.

    Raises:
        ValueError: if CUDA is asked for and there is none.
    """
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise ValueError("train.device = 'cuda': this machine has no usable CUDA device")
    if wanted == "cpu" or not available:
        return torch.device("cpu")
    return torch.device("cuda", local_rank % torch.cuda.device_count())


def choose_backend(wanted: WantedBackend, gpus: Sequence[str | None]) -> str:
    """Return ``nccl`` if each rank has a GPU of its own, else ``gloo``.

    Args:
        wanted: By the user.
        gpus: A name for each rank's GPU, that no other has; None for a rank on the CPU.

    Raises:
        ValueError: if NCCL is asked for where it cannot work.
    """
    fault = _why_not_nccl(gpus)
    if wanted == "nccl" and fault is not None:
        raise ValueError(
            f"train.backend = 'nccl': needs a GPU per process, here {fault}; use 'gloo' or 'auto'"
        )
    return "gloo" if wanted == "gloo" or fault is not None else "nccl"


def _why_not_nccl(gpus: Sequence[str | None]) -> str | None:
    first: dict[str, int] = {}
    for rank, gpu in enumerate(gpus):
        if gpu is None:
            return f"rank {rank} has none"
        if (other := first.setdefault(gpu, rank)) != rank:
            return f"ranks {other} and {rank} share one"
    return None


def gpu_ids(wanted: WantedDevice) -> list[str]:
    """Return a name for each GPU that this process may use, the same in every process."""
    if wanted == "cpu" or not torch.cuda.is_available():
        return []
    properties = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return [str(each.uuid) for each in properties]
