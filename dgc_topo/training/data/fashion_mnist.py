"""Fashion-MNIST: grey 28x28 photographs of clothes in 10 balanced classes (Zalando, MIT).

The full set has 60,000 training and 10,000 test images.  A class-balanced subset is shipped
inside the package, so that a demo needs no download; its test images come from the test set.
Source: Xiao, Rasul, Vollgraf, "Fashion-MNIST", arXiv:1708.07747.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch

from dgc_topo.training.data.dataset import ImageDataset, TensorImages
from dgc_topo.training.data.files import (
    DataError,
    check_sha256,
    dataset_dir,
    find_packed,
    read_unpacked,
)
from dgc_topo.training.data.idx import parse_idx

NAME = "fashion-mnist"
SUBSET_NAME = "fashion-mnist-subset"
SUBSET_DIR = Path(__file__).parent / "assets" / SUBSET_NAME
#: Where the Debian package ``dataset-fashion-mnist`` installs the files.
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


def load_full(root: Path | None = None) -> ImageDataset:
    """Return all 60,000 + 10,000 images from *root*, or from where they were fetched to.

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
    """Return the names of the full set's files that *folder* lacks or holds damaged."""
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
    installed = root is None and not folder.is_dir() and DEBIAN_DIR.is_dir()
    return DEBIAN_DIR if installed else folder


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
