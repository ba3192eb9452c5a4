"""The machine and the software behind a result, found without importing torch."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from pydantic import BaseModel, ConfigDict

_PACKAGES = ("dgc-topo", "torch", "numpy", "simpy", "networkx", "pandas", "pydantic", "matplotlib")


class Environment(BaseModel):
    """Hardware and software, as ``environment.json`` keeps them."""

    model_config = ConfigDict(frozen=True)

    processor: str
    num_cores: int
    memory_bytes: int
    gpus: tuple[str, ...]
    system: str
    python: str
    packages: dict[str, str]

    def __str__(self) -> str:
        """Return one line, fit for a record's *machine*."""
        gpus = "".join(f", {self.gpus.count(gpu)} x {gpu}" for gpu in dict.fromkeys(self.gpus))
        cores = "1 core" if self.num_cores == 1 else f"{self.num_cores} cores"
        memory = f"{self.memory_bytes / 2**30:.0f} GiB"
        torch = self.packages.get("torch", "none")
        return f"{self.processor}, {cores}, {memory}{gpus}; {self.system}; torch {torch}"


def describe_environment() -> Environment:
    """Return what this process runs on."""
    return Environment(
        processor=_processor(),
        num_cores=num_cores(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        gpus=_gpus(),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        packages=_versions(),
    )


def _processor() -> str:
    fallback = platform.processor() or platform.machine()
    return _field(Path("/proc/cpuinfo"), "model name") or fallback


def num_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # a container may own fewer cores than the machine has
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _gpus() -> tuple[str, ...]:
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    return tuple(_field(file, "Model") or "NVIDIA GPU" for file in files)


def _field(file: Path, name: str) -> str | None:
    """Return the value of the first ``name : value`` line."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in pairs if key.strip() == name), None)


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
