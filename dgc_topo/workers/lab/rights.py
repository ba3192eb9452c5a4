"""Leaving the machine's network and process ids, and what it takes: rights, or a user namespace."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from dgc_topo.workers.lab import namespaces

#: By bit: to make namespaces, and for root to be itself in a user namespace of its own.
_CAPABILITIES = {"CAP_SYS_ADMIN": 21, "CAP_SETFCAP": 31}
_APPARMOR = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")


def leave_machine() -> bool:
    """Leave the machine's network, and give children process ids of their own.

    Returns:
        Whether that took a user namespace.

    Raises:
        OSError: if this user may not; the text says what is missing.
    """
    # Asked now: inside a user namespace it has every right, and may have no name.
    missing = _missing()
    wanted = namespaces.NEW_NET | namespaces.NEW_PIDS
    try:
        namespaces.unshare(wanted)
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
    else:
        return False
    try:
        namespaces.become_own_user()
        namespaces.unshare(wanted)
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.EACCES}:
            raise
        raise OSError(error.errno, f"{os.strerror(error.errno)}: {missing}") from error
    return True


def _missing() -> str:
    """Say what this process lacks, if it may make no namespaces."""
    if os.geteuid() == 0:
        return _missing_for_root()
    why = "be root, or allow user namespaces"
    if _APPARMOR.exists() and _APPARMOR.read_text().strip() == "1":
        why += f" (AppArmor restricts them: kernel.{_APPARMOR.name})"
    return why


def _missing_for_root() -> str:
    lines = Path("/proc/self/status").read_text().splitlines()
    (effective,) = (int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))
    lacking = [name for name, bit in _CAPABILITIES.items() if not effective >> bit & 1]
    if not lacking:
        return "root has the capabilities, something else forbids it (seccomp, or a chroot)"
    return (
        f"root lacks {' and '.join(lacking)} here, expected CAP_SYS_ADMIN (to make namespaces), or "
        "CAP_SETFCAP and the right to make user namespaces"
    )
