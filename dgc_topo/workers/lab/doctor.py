"""Diagnosis of this machine's fitness for a lab; every item is tried, not guessed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any

from dgc_topo.workers.children import python_command, python_environment

_TRY_WITHIN_S = 60
_HOSTS_PER_CORE = 4  #: more of them at 100 Mbit/s measure the processor rather than the network


@dataclass(frozen=True, slots=True)
class Finding:
    """One item of a diagnosis.

    Attributes:
        name: Name of the item.
        usable: True if it is there.
        needed: True if the lab cannot do without.
        detail: Finding, and advice if the item is missing.
    """

    name: str
    usable: bool
    needed: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Findings about this machine.

    Attributes:
        findings: In the order to be read.
    """

    findings: tuple[Finding, ...]

    @property
    def usable(self) -> bool:
        """True if a lab can be built and workers run in it."""
        return all(finding.usable for finding in self.findings if finding.needed)

    @property
    def missing(self) -> str:
        """Items that are needed and not there, as text."""
        lacks = [f for f in self.findings if f.needed and not f.usable]
        return "; ".join(f"{finding.name}: {finding.detail}" for finding in lacks)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON value."""
        return {"usable": self.usable, "findings": [asdict(each) for each in self.findings]}


def examine() -> Diagnosis:
    """Try everything that a lab needs, in a process of its own that takes it all along."""
    if sys.platform != "linux":
        here = Finding("Linux", False, True, f"this is {sys.platform}; the lab needs Linux 5.3+")
        return Diagnosis((here, *_software()))
    return Diagnosis((*_rights(), *_try_kernel(), _cores(), *_software()))


def _rights() -> list[Finding]:
    user = os.geteuid()
    who = "root" if user == 0 else f"user {user}"
    limit = Path("/proc/sys/user/max_user_namespaces")
    allowed = limit.read_text().strip() if limit.exists() else "unknown"
    return [Finding("user", True, False, f"{who}; user namespaces allowed: {allowed}")]


def _try_kernel() -> list[Finding]:
    try:
        done = subprocess.run(
            python_command("dgc_topo.workers.lab.trial"),
            env=python_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TRY_WITHIN_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        late = f"no answer within {_TRY_WITHIN_S} s, from the kernel or from a busy machine"
        return [Finding("trial", False, True, late)]
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return [Finding("trial", False, True, f"ended with status {done.returncode}: {last}")]
    return [Finding(**found) for found in json.loads(done.stdout)]


def _cores() -> Finding:
    cores = len(os.sched_getaffinity(0))
    detail = (
        f"{cores}; about {_HOSTS_PER_CORE * cores} hosts at 100 Mbit/s, or {cores} at 1 Gbit/s, "
        "before the processor is what is measured"
    )
    return Finding("cores", True, False, detail)


def _software() -> list[Finding]:
    return [_package("pyroute2", needed=True), _package("torch", needed=True), _gloo()]


def _package(name: str, *, needed: bool) -> Finding:
    try:
        return Finding(name, True, needed, metadata.version(name))
    except metadata.PackageNotFoundError:
        return Finding(name, False, needed, f"not installed: pip install {name}")


def _gloo() -> Finding:
    if util.find_spec("torch") is None:
        return Finding("gloo", False, True, "comes with torch")
    import torch.distributed as dist  # noqa: PLC0415  # slow, and the rest does without

    there = dist.is_available() and dist.is_gloo_available()
    return Finding("gloo", there, True, "built into torch" if there else "not built into torch")
