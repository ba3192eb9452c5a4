"""Getting the full Fashion-MNIST set: from a Debian mirror, or from its public repository.

Whatever the source says, only content with the known SHA-256 is kept, and each file appears in
its folder whole or not at all.
"""

from __future__ import annotations

import http.client
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dgc_topo.training.data.debian import Progress, deb_files, download_package
from dgc_topo.training.data.fashion_mnist import FILES, NAME, missing_files
from dgc_topo.training.data.files import (
    DATA_VARIABLE,
    DataError,
    check_sha256,
    dataset_dir,
    unpack,
    write_atomically,
)

_PACKAGE = "dataset-fashion-mnist"
_COMMIT = "b2617bb6d3ffa2e429640350f613e3291e10b141"
REPOSITORY_URL = (
    f"https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/{_COMMIT}/data/fashion"
)
_TIMEOUT_S = 30.0  # without a single byte
_BLOCK_BYTES = 1 << 16
_MAX_FILE_BYTES = 1 << 26  # the largest file has 26 MB


class Source(NamedTuple):
    """A place to get files from.

    Attributes:
        name: What to call it in messages.
        get: Returns the packed content of the files asked for, or raises `DataError`.
    """

    name: str
    get: Callable[[Sequence[str], Progress], Mapping[str, bytes]]


def from_debian(names: Sequence[str], progress: Progress) -> Mapping[str, bytes]:
    """Return the files *names* (.gz content by name) out of the Debian package."""
    with tempfile.TemporaryDirectory(prefix="dgc-topo-") as temporary:
        package = download_package(_PACKAGE, Path(temporary), progress)
        files = deb_files(package, [f"{name}.gz" for name in names])
    return {name: files[f"{name}.gz"] for name in names}


def from_repository(names: Sequence[str], progress: Progress) -> Mapping[str, bytes]:
    """Return the files *names* (.gz content by name) from the public repository over HTTPS."""
    return {name: _download(f"{REPOSITORY_URL}/{name}.gz", progress) for name in names}


SOURCES = (
    Source(f"Debian package {_PACKAGE}", from_debian),
    Source("public repository over HTTPS", from_repository),
)


def fetch_fashion_mnist(destination: Path | None = None, progress: Progress | None = None) -> Path:
    """Make sure the four files of Fashion-MNIST (31 MB) are in a folder, and return it.

    Files already there and intact are kept, so a call on a complete folder touches no network.

    Args:
        destination: The folder; by default ``fashion-mnist`` in `data_dir`.
        progress: Called with what is being fetched, bytes so far and bytes in all (None where
            not known).

    Raises:
        DataError: if no source works (the message lists what was tried, why each failed and
            what to do) or the folder cannot be written.
    """
    folder = dataset_dir(NAME, destination)
    report = progress or _silent
    failures: list[str] = []
    for source in SOURCES:
        missing = missing_files(folder)
        if not missing:
            return folder
        try:
            packed = source.get(missing, report)
            for name in missing:
                where = f"{name}.gz"
                check_sha256(unpack(packed[name], ".gz", where), FILES[name], f"{where}, unpacked")
        except DataError as error:
            failures.append(f"  {source.name}: {error}")
            continue
        for name in missing:
            write_atomically(folder / f"{name}.gz", packed[name])
        return folder
    raise DataError(_advice(folder, failures))


def _advice(folder: Path, failures: Sequence[str]) -> str:
    tried = "\n".join(failures)
    files = ", ".join(f"{name}.gz" for name in FILES)
    return (
        f"{NAME}: could not be fetched; tried\n{tried}\n"
        f"On a machine without a network, put these four files (from either source) in {folder}, "
        f"or set {DATA_VARIABLE} to a folder that has them in {NAME}/: {files}"
    )


def _silent(_what: str, _done_bytes: int, _total_bytes: int | None) -> None:
    """Report nothing."""


def _download(url: str, progress: Progress) -> bytes:
    name = url.rsplit("/", 1)[-1]
    content = bytearray()
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response:
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isdigit() else None
            while block := response.read(_BLOCK_BYTES):
                content += block
                if len(content) > _MAX_FILE_BYTES:
                    raise DataError(f"{url}: more than {_MAX_FILE_BYTES} bytes, expected less")
                progress(name, len(content), total)
    except urllib.error.URLError as error:
        raise DataError(f"{url}: {error.reason}") from error
    except (http.client.HTTPException, OSError) as error:
        raise DataError(f"{url}: {error}") from error
    return bytes(content)
