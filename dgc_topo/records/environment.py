"""The machine and software behind a result, found without importing torch."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata, util
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
        """Return one line of text, as in a record's *machine*."""
        gpus = "".join(f", {self.gpus.count(gpu)} x {gpu}" for gpu in dict.fromkeys(self.gpus))
        cores = "1 core" if self.num_cores == 1 else f"{self.num_cores} cores"
        memory = f"{self.memory_bytes / 2**30:.0f} GiB"
        torch = self.packages.get("torch", "none")
        return f"{self.processor}, {cores}, {memory}{gpus}; {self.system}; torch {torch}"


def describe_environment() -> Environment:
    """Return the hardware and software of this process."""
    return Environment(
        processor=_processor(),
        num_cores=num_cores(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        gpus=_gpus(),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        packages=_versions(),
    )


#: Variables of launchers; all others are left out, because they may hold secrets.
_LAUNCHER_VARIABLES = re.compile(
    r"(LOCAL_)?RANK|(LOCAL_)?WORLD_SIZE|MASTER_(ADDR|PORT)|OMP_NUM_THREADS|CUDA_VISIBLE_DEVICES"
    r"|(NCCL|GLOO)_\w+|OMPI_COMM_WORLD_\w+|PMI_(RANK|SIZE)|MPI_LOCAL(RANKID|NRANKS)"
    r"|SLURM_(PROCID|LOCALID|NODEID|STEP_ID|NTASKS|STEP_TASKS_PER_NODE|TASKS_PER_NODE)"
)


def describe_installation(variables: Mapping[str, str] = os.environ) -> dict[str, object]:
    """Return the facts that a report of a problem needs, by name.

    Args:
        variables: Environment variables, of which those of launchers are kept.
    """
    here = describe_environment()
    return {
        "dgc-topo": here.packages.get("dgc-topo"),
        "python": here.python,
        "packages": {k: v for k, v in here.packages.items() if k != "dgc-topo"},
        "CUDA of torch": _torch_cuda(),
        "NCCL": next(map(_version_of, _packages_like("nvidia-nccl")), None),
        "NVIDIA driver": _driver(),
        "GPUs": list(here.gpus) or _gpus_by_command(),
        "system": f"{here.system} {platform.machine()}",
        "processor": here.processor,
        "cores": here.num_cores,
        "memory": f"{here.memory_bytes / 2**30:.0f} GiB",
        "interfaces": _interfaces(),
        "launcher variables": {
            name: variables[name]
            for name in sorted(variables)
            if _LAUNCHER_VARIABLES.fullmatch(name)
        },
    }


def _torch_cuda() -> str | None:
    """Return the version of CUDA that torch was built for; torch itself is not imported."""
    found = util.find_spec("torch")
    if found is None or found.origin is None:
        return None
    text = Path(found.origin).with_name("version.py").read_text(encoding="utf-8")
    version = re.search(r"^cuda\b[^=\n]*= '([^']+)'", text, re.MULTILINE)
    return version[1] if version else "none (built for the CPU)"


def _packages_like(beginning: str) -> list[str]:
    names = (each.metadata["Name"] for each in metadata.distributions())
    return [name for name in names if name and name.startswith(beginning)]


def _version_of(package: str) -> str:
    return f"{metadata.version(package)} ({package})"


def _driver() -> str | None:
    with suppress(OSError):
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
        found = re.search(r"\b\d{3,}(\.\d+)+\b", text)
        return found[0] if found else None
    return None


def _gpus_by_command() -> list[str]:
    """Return the GPUs that the driver's own command lists, where ``/proc`` does not."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            [command, "--query-gpu=name,memory.total", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        return done.stdout.splitlines()
    return []


def _interfaces() -> dict[str, str]:
    """Return each network interface's state, and its speed where that can be read."""
    return {
        place.name: f"{_word(place / 'operstate') or 'unknown'}, {_speed(place)}"
        for place in sorted(Path("/sys/class/net").glob("*"))
    }


def _speed(interface: Path) -> str:
    said = _word(interface / "speed")  # Mbit/s; virtual ones say -1, or refuse
    return f"{int(said):,} Mbit/s" if said.isdigit() else "speed unknown"


def _word(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _processor() -> str:
    fallback = platform.processor() or platform.machine()
    return _field(Path("/proc/cpuinfo"), "model name") or fallback


def num_cores() -> int:
    """Return the number of cores that this process may use."""
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
