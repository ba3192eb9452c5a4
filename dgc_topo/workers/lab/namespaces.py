"""Linux namespaces: system calls that Python 3.11 lacks, and the rights that they need."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NEW_MOUNTS = 0x0002_0000
NEW_USER = 0x1000_0000
NEW_PIDS = 0x2000_0000
NEW_NET = 0x4000_0000

_LIMITS = {
    NEW_MOUNTS: "max_mnt_namespaces",
    NEW_USER: "max_user_namespaces",
    NEW_PIDS: "max_pid_namespaces",
    NEW_NET: "max_net_namespaces",
}
_SET_PDEATHSIG = 1
#: By bit: to make namespaces, and for root to be itself in a user namespace of its own.
_CAPABILITIES = {"CAP_SYS_ADMIN": 21, "CAP_SETFCAP": 31}
_APPARMOR = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
_PRIVATE_RECURSIVELY = (1 << 18) | (1 << 14)

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Move this thread into new namespaces; new process ids are for its children.

    Raises:
        OSError: if the kernel refuses; one that has run out of them says of which.
    """
    if _libc.unshare(flags) == 0:
        return
    number = ctypes.get_errno()
    why = _limit_text(flags) if number == errno.ENOSPC else os.strerror(number)
    raise OSError(number, f"unshare: {why}")


def _limit_text(flags: int) -> str:
    """Return the text about a limit on namespaces that is reached."""
    limits = []
    for flag, name in _LIMITS.items():
        path = Path("/proc/sys/user") / name
        if flags & flag and path.exists():
            limits.append(f"user.{name} ({path.read_text().strip()} here)")
    return (
        f"no namespaces are left: {' or '.join(limits) or 'a limit of the system'} is exhausted, "
        "expected more (sysctl), or fewer levels of them"
    )


def enter_network(descriptor: int) -> None:
    """Move this thread into a network namespace.

    Raises:
        OSError: if the kernel refuses.
    """
    _check(_libc.setns(descriptor, NEW_NET), "setns")


@contextmanager
def inside(descriptor: int, outside: int) -> Iterator[None]:
    """Be in the network namespace *descriptor* for a while, then in *outside*."""
    enter_network(descriptor)
    try:
        yield
    finally:
        enter_network(outside)


def new_network() -> int:
    """Move this thread into a network namespace of its own, and return a descriptor of it.

    It has no name anywhere: it goes when the last process in it and the last descriptor go.
    """
    unshare(NEW_NET)
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def enter_user_namespace() -> None:
    """Enter a user namespace, where this process may do what it wants to namespaces it makes.

    The user keeps its number, so files are read and written as before.

    Raises:
        OSError: if the system does not let this user have one.
    """
    user, group = os.geteuid(), os.getegid()
    unshare(NEW_USER)
    me = Path("/proc/self")
    (me / "setgroups").write_text("deny")
    (me / "uid_map").write_text(f"{user} {user} 1")
    (me / "gid_map").write_text(f"{group} {group} 1")


def die_with_parent() -> None:
    """Have the kernel kill this process when the *thread* that started it ends.

    A change of credentials, such as entering a user namespace, forgets this: call it afterwards.
    """
    _libc.prctl(_SET_PDEATHSIG, signal.SIGKILL)


def show_own_processes() -> None:
    """Give this process a /proc of its process-id namespace, if the system allows it."""
    try:
        unshare(NEW_MOUNTS)
        _check(_libc.mount(b"none", b"/", None, _PRIVATE_RECURSIVELY, None), "mount")
        _check(_libc.mount(b"proc", b"/proc", b"proc", 0, None), "mount")
    except OSError:
        pass  # commands then see the machine's processes, under other numbers than their own


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def leave_machine() -> bool:
    """Leave the machine's network, and give children process ids of their own.

    Returns:
        True if that took a user namespace.

    Raises:
        OSError: if this user may not; the text says what is missing.
    """
    # Asked now: inside a user namespace it has every right, and may have no name.
    missing = _missing()
    wanted = NEW_NET | NEW_PIDS
    try:
        unshare(wanted)
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
    else:
        return False
    try:
        enter_user_namespace()
        unshare(wanted)
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
