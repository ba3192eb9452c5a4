"""Fashion-MNIST: grey 28x28 photographs of clothes in 10 balanced classes (Zalando, MIT).

The full set has 60,000 training and 10,000 test images.  A class-balanced subset is shipped
inside the package, so that a demo needs no download; its test images come from the test set.
Source: Xiao, Rasul, Vollgraf, "Fashion-MNIST", arXiv:1708.07747.

Its files are IDX, as those of MNIST: two zero bytes, the type code (8 for unsigned bytes), the
number of dimensions, each dimension as a big-endian 4-byte unsigned integer, then the bytes
(LeCun, Cortes and Burges, "The MNIST database").
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from dgc_topo.training.data.dataset import ImageDataset, TensorImages
from dgc_topo.training.data.dataset_files import (
    DataError,
    check_sha256,
    dataset_dir,
    find_packed,
    read_unpacked,
)

NAME = "fashion-mnist"
SUBSET_NAME = "fashion-mnist-subset"
SUBSET_DIR = Path(__file__).parent / "assets" / SUBSET_NAME
DEBIAN_PACKAGE = "dataset-fashion-mnist"
#: Where it installs the files.
DEBIAN_DIR = Path("/usr/share/datasets/fashion-mnist")

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
#: SHA-256 of each file *unpacked*: Debian packed them anew, so the .gz files of the two sources
#: differ in their headers while the content is the same.
FILES: Mapping[str, str] = MappingProxyType(
    {
        "train-images-idx3-ubyte": (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
        ),
        "train-labels-idx1-ubyte": (
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
        ),
        "t10k-images-idx3-ubyte": (
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
        ),
        "t10k-labels-idx1-ubyte": (
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
        ),
    }
)
#: Likewise of the shipped subset; tools/build_assets.py says how its images were chosen.
SUBSET_FILES: Mapping[str, str] = MappingProxyType(
    {
        "train-images-idx3-ubyte": (
            "f86a353895ea1dde536fe7a6280a09876e0d97a78ced0166b652db00eae0df2a"
        ),
        "train-labels-idx1-ubyte": (
            "2a4fb3eec0877aa3d4ab80d8f59374733af9b2b2966e8be0e50efe715f443a4d"
        ),
        "t10k-images-idx3-ubyte": (
            "7fe0fb947a6beb05a93beab6185841e5d4d044514eaddae4e294deef69923ab7"
        ),
        "t10k-labels-idx1-ubyte": (
            "e026daf3d28b630d395bff264d45247706f43ecba7d4f48422cba6b6a30e22d3"
        ),
    }
)
_MEAN, _STD = 0.2860, 0.3530  # of the 60,000 training images, as a fraction of full scale
_SIDE = 28  # pixels
_UNSIGNED_BYTE = 8
_MAGIC_BYTES = 4
_SIZE_BYTES = 4


def load_full(root: Path | None = None) -> ImageDataset:
    """Return all 60,000 + 10,000 images from *root*, by default from the folder of the download.

    Raises:
        DataError: if a file is missing (the message says how to get it) or damaged.
    """
    return _load(NAME, _folder(root), FILES)


def load_subset() -> ImageDataset:
    """Return the class-balanced subset that is shipped inside the package.

    Images of the ten classes take turns, so any run of ten is balanced.

    Raises:
        DataError: if the shipped files are damaged.
    """
    return _load(SUBSET_NAME, SUBSET_DIR, SUBSET_FILES)


def missing_files(folder: Path) -> tuple[str, ...]:
    """Return the names of the full set's files that are damaged in *folder*, or missing."""
    return tuple(name for name in FILES if not _is_intact(folder, name))


def _is_intact(folder: Path, name: str) -> bool:
    path = find_packed(folder, name)
    if path is None:
        return False
    try:
        check_sha256(read_unpacked(path), FILES[name], str(path))
    except DataError:
        return False
    return True


def _folder(root: Path | None) -> Path:
    folder = dataset_dir(NAME, root)
    lacks_all = root is None and not any(find_packed(folder, name) for name in FILES)
    return DEBIAN_DIR if lacks_all and DEBIAN_DIR.is_dir() else folder


def _load(name: str, folder: Path, files: Mapping[str, str]) -> ImageDataset:
    content = {file: _read(folder, file, checksum) for file, checksum in files.items()}
    return ImageDataset(
        name=name,
        train=_split(content, "train"),
        test=_split(content, "t10k"),
        class_names=CLASS_NAMES,
        mean=(_MEAN,),
        std=(_STD,),
    )


def _read(folder: Path, name: str, checksum: str) -> bytes:
    path = find_packed(folder, name)
    if path is None:
        how = f"get it with 'dgc-topo data {NAME}', or give the folder that has it"
        raise DataError(f"{NAME}: no {name} or {name}.gz in {folder}; {how}")
    content = read_unpacked(path)
    check_sha256(content, checksum, f"{path}, unpacked")
    return content


def _split(content: Mapping[str, bytes], part: str) -> TensorImages:
    images_name, labels_name = f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"
    images = parse_idx(content[images_name], 3, images_name)
    labels = parse_idx(content[labels_name], 1, labels_name)
    if images.shape[1:] != (_SIDE, _SIDE):
        found = " x ".join(map(str, images.shape[1:]))
        raise DataError(f"{images_name}: images of {found} pixels, expected {_SIDE} x {_SIDE}")
    return TensorImages(images.unsqueeze(1), labels.to(torch.int64))


def parse_idx(data: bytes, num_dims: int, where: str) -> Tensor:
    """Return the array that the IDX file content *data* holds.

    Args:
        data: The whole file, decompressed.
        num_dims: Dimensions it must have: 3 for grey images, 1 for labels.
        where: Name of the file, for error messages.

    Returns:
        uint8 tensor of *num_dims* dimensions, a copy of the bytes.

    Raises:
        DataError: if the file is cut short, is not IDX, holds another type or number of
            dimensions, or is not as long as its header says.
    """
    header = _MAGIC_BYTES + _SIZE_BYTES * num_dims
    magic = bytes([0, 0, _UNSIGNED_BYTE, num_dims])
    if data[:_MAGIC_BYTES] != magic:
        found = data[:_MAGIC_BYTES].hex(" ") or "an empty file"
        expected = f"expected {magic.hex(' ')} (IDX, unsigned bytes, {num_dims} dimensions)"
        raise DataError(f"{where}: starts with {found}, {expected}")
    if len(data) < header:
        raise DataError(f"{where}: ends within its header, {len(data)} bytes, expected {header}")
    shape = tuple(
        int.from_bytes(data[at : at + _SIZE_BYTES], "big")
        for at in range(_MAGIC_BYTES, header, _SIZE_BYTES)
    )
    if len(data) - header != math.prod(shape) or 0 in shape:
        sizes = " x ".join(map(str, shape))
        follow = f"{len(data) - header} bytes follow"
        raise DataError(f"{where}: header says {sizes}, {follow}, expected {math.prod(shape)}, > 0")
    array = np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape)
    return torch.from_numpy(array.copy())
