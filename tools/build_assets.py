"""Build the data that is shipped inside the package, from two Debian packages.

    python tools/build_assets.py [--folder DIR]

Needs apt, its mirror (after 'apt-get update') and dpkg-deb, but not root.  Every input and output
is checked by SHA-256, so a second run writes the same content (the .xz bytes may differ between
versions of liblzma).

- austen.txt.xz: the six novels of r-cran-janeaustenr, joined by newlines, without the modern
  "note on the text" after Northanger Abbey.
- fashion-mnist-subset/: of dataset-fashion-mnist, per class the 1000 training and 200 test
  images whose SHA-256 of "SEED:PART:INDEX" is smallest; classes take turns.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import lzma
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dgc_topo.files import write_whole
from dgc_topo.training.data.austen import NOVELS, PATH, SHA256
from dgc_topo.training.data.dataset_files import check_sha256
from dgc_topo.training.data.fashion_mnist import (
    CLASS_NAMES,
    FILES,
    SUBSET_DIR,
    SUBSET_FILES,
    parse_idx,
)

SEED = 2017  # the year of the data set
PER_CLASS = {"train": 1000, "t10k": 200}
RDATA_SHA256 = "8fb5198960d0da724b1562f96e4221e5c1b41ff455000280b02c55980c3d8f21"
ALL_TEXT_SHA256 = "1f48a6d7751aa60776b8aacf34d3b6898c46f4ee0fd103d733dd04f45e761841"
MODERN_NOTE = "A NOTE ON THE TEXT"
_HEADER_BYTES = 23  # of an R serialisation, version 3, encoding UTF-8


def main() -> None:
    """Read the command line and write the assets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folder", type=Path, default=PATH.parent, help="where to write")
    folder: Path = parser.parse_args().folder
    build_austen(folder / PATH.name)
    build_subset(folder / SUBSET_DIR.name)


def build_austen(path: Path) -> None:
    """Write the novels to *path*."""
    rdata = package_files("r-cran-janeaustenr", ["Rdata.rdb"])["Rdata.rdb"]
    check_sha256(rdata, RDATA_SHA256, "Rdata.rdb")
    novels = list(r_character_vectors(rdata))
    check_sha256("\n".join(map("\n".join, novels)).encode(), ALL_TEXT_SHA256, "text as found")
    texts = ["\n".join(without_note(lines)) for lines in novels]
    if tuple(map(len, texts)) != tuple(novel.characters for novel in NOVELS):
        raise SystemExit(f"novels have {list(map(len, texts))} characters, not as in NOVELS")
    content = "\n".join(texts).encode()
    check_sha256(content, SHA256, "text as shipped")
    write(path, content)


def r_character_vectors(rdb: bytes) -> Iterator[list[str]]:
    """Yield the character vectors of an R lazy-load file: length, zlib stream, and so on."""
    at = 0
    while at < len(rdb):
        (length,) = struct.unpack_from(">I", rdb, at)  # of the data once unpacked
        stream = zlib.decompressobj()
        data = stream.decompress(rdb[at + 4 :])
        if len(data) != length or not stream.eof:
            raise SystemExit(f"record at byte {at}: {len(data)} bytes, expected {length}")
        yield r_strings(data)
        at = len(rdb) - len(stream.unused_data)


def r_strings(data: bytes) -> list[str]:
    """Return the strings of one serialised R character vector (XDR form, version 3)."""
    (_flags, count) = struct.unpack_from(">II", data, _HEADER_BYTES)
    at = _HEADER_BYTES + 8
    strings = []
    for _ in range(count):
        (_flags, length) = struct.unpack_from(">II", data, at)
        strings.append(data[at + 8 : at + 8 + length].decode("utf-8"))
        at += 8 + length
    return strings


def without_note(lines: list[str]) -> list[str]:
    """Return the *lines* before the note that a modern edition of Northanger Abbey adds."""
    return lines[: lines.index(MODERN_NOTE)] if MODERN_NOTE in lines else lines


def build_subset(folder: Path) -> None:
    """Write the four IDX files of the subset to *folder*."""
    packed = package_files("dataset-fashion-mnist", [f"{name}.gz" for name in FILES])
    for part, per_class in PER_CLASS.items():
        images_name, labels_name = f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"
        images = unpacked_idx(packed, images_name, 3)
        labels = unpacked_idx(packed, labels_name, 1)
        chosen = choose(labels, part, per_class)
        write_idx(folder / f"{images_name}.xz", images[chosen])
        write_idx(folder / f"{labels_name}.xz", labels[chosen])


def unpacked_idx(packed: dict[str, bytes], name: str, num_dims: int) -> npt.NDArray[np.uint8]:
    """Return the array of IDX file *name*, after checking its content."""
    content = gzip.decompress(packed[f"{name}.gz"])
    check_sha256(content, FILES[name], name)
    return parse_idx(content, num_dims, name).numpy()


def choose(labels: npt.NDArray[np.uint8], part: str, per_class: int) -> npt.NDArray[np.int64]:
    """Return *per_class* indices of each class, in the order of a hash, classes taking turns."""
    hashes = [
        hashlib.sha256(f"{SEED}:{part}:{index}".encode()).digest() for index in range(len(labels))
    ]
    order = np.array(sorted(range(len(labels)), key=hashes.__getitem__))
    by_class = [order[labels[order] == label][:per_class] for label in range(len(CLASS_NAMES))]
    return np.stack(by_class, axis=1).reshape(-1)


def write_idx(path: Path, array: npt.NDArray[np.uint8]) -> None:
    """Write *array* as a compressed IDX file."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    content = header + array.tobytes()
    check_sha256(content, SUBSET_FILES[path.stem], path.name)
    write(path, content)


def write(path: Path, content: bytes) -> None:
    """Compress *content* into *path* and say how large it became."""
    packed = lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, packed)
    sys.stdout.write(f"{path.name}: {len(content)} bytes, {len(packed)} packed\n")


def package_files(package: str, names: list[str]) -> dict[str, bytes]:
    """Return files called *names* out of the Debian *package*, by name; nothing is installed."""
    with tempfile.TemporaryDirectory() as temporary:
        subprocess.run(["apt-get", "download", package], cwd=temporary, check=True)
        (deb,) = Path(temporary).glob("*.deb")
        subprocess.run(["dpkg-deb", "--extract", deb, temporary], check=True)
        return {name: next(Path(temporary).rglob(name)).read_bytes() for name in names}


if __name__ == "__main__":
    main()
