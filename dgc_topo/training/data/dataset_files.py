"""Folders of data sets, and the reading of their files."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import platformdirs

DATA_VARIABLE = "DGC_TOPO_DATA"  #: environment variable that moves the data folder

_UNPACK: Mapping[str, Callable[[bytes], bytes]] = MappingProxyType(
    {".gz": gzip.decompress, ".xz": lzma.decompress, "": bytes}
)


class DataError(ValueError):
    """A data set that is missing, damaged or of another form than expected."""


def data_dir() -> Path:
    """Return the folder that holds downloaded data sets, one sub-folder per name.

    It is ``$DGC_TOPO_DATA`` where that is set, else the user's cache folder.
    """
    override = os.environ.get(DATA_VARIABLE)
    return Path(override) if override else Path(platformdirs.user_cache_dir("dgc-topo"))


def dataset_dir(name: str, root: Path | None = None) -> Path:
    """Return *root* where given, else the folder of data set *name* in `data_dir`."""
    return data_dir() / name if root is None else Path(root)


def find_packed(folder: Path, name: str) -> Path | None:
    """Return the file *name* in *folder*, with the suffix .gz, .xz or none; None if absent."""
    candidates = (folder / f"{name}{suffix}" for suffix in _UNPACK)
    return next((path for path in candidates if path.is_file()), None)


def unpack(data: bytes, suffix: str, where: str) -> bytes:
    """Return *data* decompressed as its file-name *suffix* says ('', '.gz' or '.xz').

    Raises:
        DataError: if the compressed bytes are truncated or damaged; *where* names them.
    """
    try:
        return _UNPACK[suffix](data)
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise DataError(
            f"{where}: damaged or cut short ({error}), expected {suffix} data"
        ) from None


def read_unpacked(path: Path) -> bytes:
    """Return the content of *path*, decompressed where its suffix is .gz or .xz.

    Raises:
        DataError: if the file cannot be read or its compressed bytes are damaged.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return unpack(data, path.suffix if path.suffix in _UNPACK else "", str(path))


def check_sha256(content: bytes, expected: str, where: str) -> None:
    """Raise `DataError` naming *where* unless *content* has the SHA-256 *expected* (hex)."""
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise DataError(f"{where}: wrong checksum, SHA-256 {found}, expected {expected}")
