"""Peak memory of a piece of work, beyond what was there before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def allocated_bytes(device: torch.device) -> int:
    """Return what torch has allocated on a GPU; 0 on a CPU."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def peak_extra_bytes(
    work: Callable[[], object], device: torch.device, before: int | None = None
) -> int | None:
    """Run *work* and return by how much the memory in use rose at its peak.

    On a GPU that is what torch had allocated; on a CPU the process' resident memory, known to
    Linux only, so that other threads and the allocator's habits count as well.

    Args:
        work: What to run.
        device: Whose memory.
        before: Bytes allocated on a GPU that are not extra; what is there now by default.

    Returns:
        Bytes, at least 0, or None where the system does not tell.
    """
    if device.type == "cuda":
        before = allocated_bytes(device) if before is None else before
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return max(0, torch.cuda.max_memory_allocated(device) - before)
    try:
        _RESET.write_text("5", encoding="ascii")  # the peak is counted anew
        resident = _resident_bytes("VmRSS")
        work()
        return max(0, _resident_bytes("VmHWM") - resident)
    except OSError:
        work()
        return None


def _resident_bytes(field: str) -> int:
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise OSError(f"{_STATUS}: no {field}")
