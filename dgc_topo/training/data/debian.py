"""Files out of a Debian package: downloaded by apt, opened here, nothing installed, no root.

A package is an ``ar`` archive with a ``data.tar`` inside, compressed in one of several ways
(deb(5), ar(5)).
"""

from __future__ import annotations

import bz2
import importlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath

from dgc_topo.training.data.files import DataError, unpack

#: Called with what is being fetched, bytes so far, and bytes in all (None where not known).
Progress = Callable[[str, int, int | None], None]

_AR_MAGIC = b"!<arch>\n"
_AR_HEADER_BYTES = 60
_AR_END = b"`\n"
_ZSTD_MODULES = ("compression.zstd", "backports.zstd")
_POLL_S = 0.1
_LIMIT_S = 900.0  # 31 MB take this long at 35 kB/s
# What apt says when it does not know the package yet, or knows a version that is gone.
_STALE_LISTS = ("Unable to locate package", "404", "No packages found", "Can't select")
_APT_OPTIONS = ("-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=20")


def ar_members(archive: bytes, where: str) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each member of an ``ar`` *archive*.

    Raises:
        DataError: if it is no such archive or is cut short; *where* names it.
    """
    if not archive.startswith(_AR_MAGIC):
        raise DataError(f"{where}: starts with {archive[:8]!r}, expected a Debian package")
    at = len(_AR_MAGIC)
    while at < len(archive):
        header = archive[at : at + _AR_HEADER_BYTES]
        size = header[48:58].strip()
        if len(header) < _AR_HEADER_BYTES or header[58:] != _AR_END or not size.isdigit():
            raise DataError(f"{where}: damaged at byte {at}, expected the header of a member")
        start = at + _AR_HEADER_BYTES
        end = start + int(size)
        if end > len(archive):
            raise DataError(f"{where}: cut short, {len(archive)} bytes, expected at least {end}")
        yield header[:16].decode("latin-1").rstrip().rstrip("/"), archive[start:end]
        at = end + end % 2  # members begin at even positions


def deb_files(package: Path, names: Collection[str]) -> dict[str, bytes]:
    """Return the content of the files called *names* (last path part) in a .deb *package*.

    Raises:
        DataError: if the package is damaged, packed in a way this machine cannot open, or
            lacks one of the files.
    """
    for member, content in ar_members(package.read_bytes(), package.name):
        if member.startswith("data.tar"):
            found = _tar_files(_untar(content, member), names, package.name)
            break
    else:
        raise DataError(f"{package.name}: no data.tar inside, expected a Debian package")
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(f"{package.name}: no {', '.join(missing)} inside")
    return found


def _untar(content: bytes, member: str) -> bytes:
    suffix = PurePosixPath(member).suffix.replace(".tar", "")
    if suffix == ".zst":
        return _unpack_zstd(content, member)
    if suffix == ".bz2":
        try:
            return bz2.decompress(content)
        except (OSError, ValueError) as error:
            raise DataError(f"{member}: damaged or cut short ({error})") from None
    if suffix not in {"", ".gz", ".xz"}:
        raise DataError(f"{member}: unknown compression, expected .xz, .gz, .bz2, .zst or none")
    return unpack(content, suffix, member)


def _unpack_zstd(content: bytes, member: str) -> bytes:
    for module in _ZSTD_MODULES:
        try:
            zstd = importlib.import_module(module)
        except ModuleNotFoundError:
            continue
        try:
            return bytes(zstd.decompress(content))
        except zstd.ZstdError as error:
            raise DataError(f"{member}: damaged or cut short ({error})") from None
    command = shutil.which("zstd")
    if command is None:
        needs = "needs Python 3.14, the package backports.zstd or the command zstd to open it"
        raise DataError(f"{member}: packed with Zstandard; {needs}")
    done = subprocess.run([command, "-dc"], input=content, capture_output=True, check=False)
    if done.returncode:
        raise DataError(f"{member}: damaged or cut short ({done.stderr.decode().strip()})")
    return done.stdout


def _tar_files(data: bytes, names: Collection[str], where: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                file = archive.extractfile(member) if member.isfile() and name in names else None
                if file is not None:
                    found[name] = file.read()
    except tarfile.TarError as error:
        raise DataError(f"{where}: damaged data.tar ({error})") from None
    return found


def download_package(package: str, folder: Path, progress: Progress) -> Path:
    """Download a Debian *package* into the empty *folder* and return the .deb file.

    Neither root nor changes to the machine are needed: where apt's own package lists are empty
    or old, they are read anew into a temporary place.

    Raises:
        DataError: if there is no apt here, or it cannot download the package (its words follow).
    """
    apt = shutil.which("apt-get")
    if apt is None:
        raise DataError("apt-get is not on this machine")
    download = [apt, *_APT_OPTIONS, "download", package]
    errors = _run(download, folder, package, progress)
    if errors is not None and any(marker in errors for marker in _STALE_LISTS):
        with tempfile.TemporaryDirectory(prefix="dgc-topo-apt-") as temporary:
            places = _private_places(Path(temporary))
            update = [apt, *_APT_OPTIONS, *places, "update"]
            errors = _run(update, folder, "package lists", progress)
            if errors is None:
                download = [apt, *_APT_OPTIONS, *places, "download", package]
                errors = _run(download, folder, package, progress)
    files = sorted(folder.glob("*.deb"))
    if errors is not None or not files:
        raise DataError(f"apt-get: {errors or 'no package came'}")
    return files[0]


def _private_places(folder: Path) -> list[str]:
    """Return apt options that keep package lists and cache in *folder*, which is prepared."""
    lists, cache = folder / "lists", folder / "cache"
    (lists / "partial").mkdir(parents=True)
    (cache / "archives" / "partial").mkdir(parents=True)
    every_failure_counts = ("-o", "APT::Update::Error-Mode=any")
    return ["-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={cache}", *every_failure_counts]


def _run(command: Sequence[str], folder: Path, what: str, progress: Progress) -> str | None:
    """Run apt in *folder*; return None if it went well, else what it says went wrong."""
    deadline = time.monotonic() + _LIMIT_S
    environment = os.environ | {"LC_ALL": "C"}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
        try:
            while process.poll() is None and time.monotonic() < deadline:
                progress(what, _size(folder), None)
                time.sleep(_POLL_S)
            if process.returncode is None:
                return f"no end after {_LIMIT_S:.0f} s"
        finally:
            process.kill()
            process.wait()
        progress(what, _size(folder), None)
        log.seek(0)
        lines = log.read().decode(errors="replace").splitlines()
    if not process.returncode:
        return None
    # The first error is the cause; those that follow repeat it for every other file.
    return next((line for line in lines if line.startswith("E:")), "failed without a word")


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.deb"))
