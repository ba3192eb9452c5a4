"""The `Seat`: this process's rank and its place on a machine, from the launcher's variables.

torchrun's variables come first.  Missing ones are taken from Open MPI, MPICH (Intel MPI, Hydra) and
SLURM, if these count the same processes: under ``srun torchrun`` SLURM numbers the torchruns.  What
no launcher tells stays unknown.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, repeat

_MOST = 2**31 - 1
_MASTER_PORTS = range(20_000, 30_000)  #: below those that systems hand out themselves
_DEFAULT_PORT = 29_500  #: torch's own


@dataclass(frozen=True, slots=True)
class Seat:
    """A rank, and where it runs as far as that is known.

    Attributes:
        rank: From 0 to world_size - 1.
        world_size: Number of ranks.
        local_rank: Rank on its machine; None if unknown.
        local_world_size: Ranks on its machine; None if unknown.
    """

    rank: int
    world_size: int
    local_rank: int | None = None
    local_world_size: int | None = None


@dataclass(frozen=True, slots=True)
class _Launcher:
    """Names of a launcher's variables."""

    name: str
    rank: str
    world_size: str
    local_rank: str
    local_world_size: str | None


_TORCHRUN = _Launcher("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
# MPI's before SLURM's: mpirun starts its own helpers with srun.
_OTHERS = (
    _Launcher(
        "Open MPI",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    _Launcher("MPICH", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    _Launcher("SLURM", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", None),
)


def seat_from(environment: Mapping[str, str] = os.environ) -> Seat:
    """Return this process's seat.

    Raises:
        ValueError: if no launcher says rank and world size, or what one says cannot be.
    """
    launcher = _launcher_of(environment)
    rank = _number(environment, launcher.rank)
    world_size = _number(environment, launcher.world_size, least=1)
    if rank >= world_size:
        raise ValueError(
            f"environment variable {launcher.rank} is {rank}, expected less than "
            f"{launcher.world_size}, which is {world_size}"
        )
    local_rank, local_size = _local(environment, launcher, rank, world_size)
    return Seat(rank, world_size, local_rank, local_size)


def was_launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Return True if a launcher started this process as one rank of several.

    SLURM says ranks to whoever works on a machine of its own; only the tasks of an ``srun`` with
    more than one have others to join.
    """
    launcher = _launcher_of(environment)
    if launcher.rank not in environment:
        return False
    if launcher.name != "SLURM":
        return True
    return "SLURM_STEP_ID" in environment and environment.get(launcher.world_size) != "1"


def meeting_point(environment: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """Return the address and the port where the ranks meet, rank 0's.

    SLURM's first node and a port of the job's own serve where MASTER_ADDR and MASTER_PORT are
    missing.

    Raises:
        ValueError: if the address is not known, or the port is none.
    """
    address = environment.get("MASTER_ADDR")
    if address is None:
        address = _first_host(environment)
    if not address or not address.strip():
        raise ValueError(
            f"environment variable MASTER_ADDR is {environment.get('MASTER_ADDR', '')!r}, expected "
            "the address of rank 0's machine"
        )
    if "MASTER_PORT" in environment:
        return address, _number(environment, "MASTER_PORT", least=1, most=65535)
    job = environment.get("SLURM_JOB_ID", "")
    if "MASTER_ADDR" in environment or not job.isascii() or not job.isdigit():
        return address, _DEFAULT_PORT
    return address, _MASTER_PORTS[int(job) % len(_MASTER_PORTS)]


def _launcher_of(environment: Mapping[str, str]) -> _Launcher:
    """Return the first launcher that says a rank or a world size; torchrun if none does."""
    for launcher in (_TORCHRUN, *_OTHERS):
        if launcher.rank in environment or launcher.world_size in environment:
            complete = launcher.rank in environment and launcher.world_size in environment
            if complete or launcher is _TORCHRUN:
                return launcher
    return _TORCHRUN


def _local(
    environment: Mapping[str, str], launcher: _Launcher, rank: int, world_size: int
) -> tuple[int | None, int | None]:
    """Return rank and number of ranks on this machine, of the first that speaks of these ranks."""
    local_rank = local_size = None
    for each in (_TORCHRUN, launcher, *_OTHERS):
        told = (each.rank, rank), (each.world_size, world_size)
        if any(environment.get(name, str(value)) != str(value) for name, value in told):
            continue
        if local_rank is None and each.local_rank in environment:
            local_rank = _number(environment, each.local_rank)
        if local_size is None:
            local_size = _local_size(environment, each)
    if local_size is not None and local_size > world_size:
        raise ValueError(
            f"{local_size} ranks on this machine of {world_size} in all ({launcher.world_size}), "
            "expected no more (LOCAL_WORLD_SIZE, or another launcher's)"
        )
    if local_rank is not None and local_rank >= (local_size or world_size):
        raise ValueError(
            f"rank {local_rank} on this machine (LOCAL_RANK, or another launcher's), expected less "
            f"than {local_size or world_size}, the ranks there"
        )
    return local_rank, local_size


def _local_size(environment: Mapping[str, str], launcher: _Launcher) -> int | None:
    if launcher.local_world_size is not None:
        if launcher.local_world_size not in environment:
            return None
        return _number(environment, launcher.local_world_size, least=1)
    if _is_whole(node := environment.get("SLURM_NODEID", "")):
        for name in ("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"):
            sizes = _expanded_counts(environment.get(name, ""))
            if size := next(islice(sizes, min(int(node), _MOST), None), None):
                return size
    told = environment.get("SLURM_NTASKS_PER_NODE", "")
    return int(told) or None if _is_whole(told) else None


def _expanded_counts(text: str) -> Iterator[int]:
    """Yield the tasks of each node from SLURM's short form, such as ``2(x3),1``."""
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip(), re.ASCII)
        if match is None:
            return
        yield from repeat(int(match[1]), min(int(match[2] or 1), _MOST))


def _first_host(environment: Mapping[str, str]) -> str | None:
    """Return the machine of rank 0, where a launcher other than torchrun says it."""
    for name in ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"):
        if nodes := environment.get(name):
            # The first of a list such as "a[03-05,9]-ib,b": brackets hold numbers to choose from.
            first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
            return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first[0]) if first else None
    return environment.get("SLURM_LAUNCH_NODE_IPADDR") or _this_machine(environment)


def _this_machine(environment: Mapping[str, str]) -> str | None:
    seat = seat_from(environment)
    return "127.0.0.1" if seat.local_world_size == seat.world_size else None


def _is_whole(text: str) -> bool:
    """Return True if the text is a number of ASCII digits, and not too many of them."""
    return text.isascii() and text.isdigit() and len(text) <= len(str(_MOST))


def _number(environment: Mapping[str, str], name: str, *, least: int = 0, most: int = _MOST) -> int:
    value = environment.get(name, "")
    if _is_whole(value) and least <= int(value) <= most:
        return int(value)
    how = f"a whole number from {least}" + (f" to {most}" if most < _MOST else "")
    advice = ""
    if name in {"RANK", "WORLD_SIZE"}:
        advice = (
            ": start this with torchrun (or another launcher that sets RANK, WORLD_SIZE, "
            "MASTER_ADDR, MASTER_PORT)"
        )
    raise ValueError(f"environment variable {name} is {value!r}, expected {how}{advice}")
