"""Download of the full Fashion-MNIST set from its public repository.

Only a file with the known SHA-256 is kept, and it appears in its folder whole or not at all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

from dgc_topo.training.data.dataset_files import DATA_VARIABLE, DataError, dataset_dir
from dgc_topo.training.data.fashion_mnist import DEBIAN_PACKAGE, FILES, NAME, missing_files

#: Called with the file's name, the bytes so far, and the bytes in all (None where not known).
DownloadProgress = Callable[[str, int, int | None], None]

_COMMIT = "b2617bb6d3ffa2e429640350f613e3291e10b141"
#: Folders that hold the same four files, tried in this order.
MIRRORS: Sequence[str] = (
    f"https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/{_COMMIT}/data/fashion",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
)
#: SHA-256 of each file there, by its name without .gz.
PACKED_FILES: Mapping[str, str] = MappingProxyType(
    {
        "train-images-idx3-ubyte": (
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"
        ),
        "train-labels-idx1-ubyte": (
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"
        ),
        "t10k-images-idx3-ubyte": (
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"
        ),
        "t10k-labels-idx1-ubyte": (
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"
        ),
    }
)
_TIMEOUT_S = 30.0  # without a single byte
_BLOCK_BYTES = 1 << 16
_MAX_FILE_BYTES = 1 << 26  # the largest file has 26 MB


def fetch_fashion_mnist(
    destination: Path | None = None, progress: DownloadProgress = lambda *_: None
) -> Path:
    """Download the four files of Fashion-MNIST (31 MB) into a folder, and return the folder.

    Files already there and intact are kept, so a call on a complete folder touches no network.

    Args:
        destination: The folder; by default ``fashion-mnist`` in `data_dir`.
        progress: Called for every block that arrives.

    Raises:
        DataError: if no mirror works (the message lists what was tried, why each failed and
            what to do) or the folder cannot be written.
    """
    folder = dataset_dir(NAME, destination)
    for name in missing_files(folder):
        _fetch(name, folder, progress)
    return folder


def _fetch(name: str, folder: Path, progress: DownloadProgress) -> None:
    # Imported here because training and predicting need neither.
    import pooch  # noqa: PLC0415
    from requests import RequestException  # noqa: PLC0415

    pooch.get_logger().setLevel(logging.WARNING)
    file, failures = f"{name}.gz", []
    download = partial(_download, progress)
    for mirror in MIRRORS:
        try:
            pooch.retrieve(f"{mirror}/{file}", PACKED_FILES[name], file, folder, None, download)
        except (RequestException, ValueError) as error:  # a wrong checksum is a ValueError
            # The connection's own words, without those of every layer above it.
            reason = getattr(error.args[0], "reason", error) if error.args else error
            failures.append(f"  {mirror}/{file}: {reason}")
        except OSError as error:
            message = f"{folder}: cannot be written ({error.strerror or error})"
            raise DataError(f"{message}; set {DATA_VARIABLE} to a folder that can") from error
        else:
            return
    raise DataError(_advice(folder, failures))


def _download(progress: DownloadProgress, url: str, path: str, _: object) -> None:
    """Write what is at *url* to *path*; the form that pooch wants.

    Its own downloader leaves the connection open when it fails, and takes an endless answer.
    """
    import requests  # noqa: PLC0415

    name, done_bytes = url.rsplit("/", 1)[-1], 0
    with (
        requests.get(url, stream=True, timeout=_TIMEOUT_S) as response,
        Path(path).open("wb") as file,
    ):
        response.raise_for_status()
        total_bytes = int(response.headers.get("Content-Length", 0)) or None
        for block in response.iter_content(_BLOCK_BYTES):
            done_bytes += file.write(block)
            if done_bytes > _MAX_FILE_BYTES:
                raise DataError(f"more than {_MAX_FILE_BYTES} bytes, expected less")
            progress(name, done_bytes, total_bytes)


def _advice(folder: Path, failures: Sequence[str]) -> str:
    tried = "\n".join(failures)
    files = ", ".join(f"{name}.gz" for name in FILES)
    return (
        f"{NAME}: could not be fetched; tried\n{tried}\n"
        f"On a machine without a network, put these four files in {folder}, or set {DATA_VARIABLE} "
        f"to a folder that has them in {NAME}/, or install the Debian package {DEBIAN_PACKAGE}: "
        f"{files}"
    )
