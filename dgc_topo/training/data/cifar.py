"""CIFAR-10 and CIFAR-100 from files the user has: 60,000 colour images of 32x32 pixels.

Both published forms are read: the binary one, and the Python one, whose pickles are opened by
an unpickler that knows arrays and nothing else, so that a forged file cannot run code.
Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from dgc_topo.training.data.dataset import ImageDataset, TensorImages
from dgc_topo.training.data.dataset_files import DataError, dataset_dir

_SHAPE = (3, 32, 32)  # channels, height, width
_PIXELS = 3 * 32 * 32
_Part = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]  # images (n, _PIXELS), labels (n,)


class _Variant(NamedTuple):
    """One of the two sets: its files, and the form of its records."""

    name: str
    num_classes: int
    label_bytes: int  # before the pixels of a binary record; the last one is the class
    label_key: bytes  # in a Python file
    folders: tuple[str, str]  # binary form, Python form
    train: tuple[str, ...]
    test: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


_VARIANTS: Mapping[str, _Variant] = MappingProxyType(
    {
        "cifar10": _Variant(
            name="cifar10",
            num_classes=10,
            label_bytes=1,
            label_key=b"labels",
            folders=("cifar-10-batches-bin", "cifar-10-batches-py"),
            train=tuple(f"data_batch_{number}" for number in range(1, 6)),
            test="test_batch",
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2470, 0.2435, 0.2616),
        ),
        "cifar100": _Variant(
            name="cifar100",
            num_classes=100,
            label_bytes=2,
            label_key=b"fine_labels",
            folders=("cifar-100-binary", "cifar-100-python"),
            train=("train",),
            test="test",
            mean=(0.5071, 0.4865, 0.4409),
            std=(0.2673, 0.2564, 0.2762),
        ),
    }
)


def load_cifar(name: str, root: Path | None = None) -> ImageDataset:
    """Return *name*, ``cifar10`` or ``cifar100``, from *root*, which holds its published folder.

    *root* may also be that folder itself (``cifar-10-batches-bin`` or ``-py``, for CIFAR-100
    ``cifar-100-binary`` or ``-python``).

    Raises:
        DataError: if the files are missing, damaged, or not what CIFAR looks like.
    """
    variant = _VARIANTS[name]
    folder, suffix = _find(variant, dataset_dir(name, root))
    read = _read_binary if suffix else _read_python
    parts = [_checked(read, variant, folder / f"{file}{suffix}") for file in variant.train]
    return ImageDataset(
        name=name,
        train=_split(parts),
        test=_split([_checked(read, variant, folder / f"{variant.test}{suffix}")]),
        class_names=_class_names(variant, folder),
        mean=variant.mean,
        std=variant.std,
    )


def _find(variant: _Variant, root: Path) -> tuple[Path, str]:
    for folder in (root, *(root / name for name in variant.folders)):
        for suffix in (".bin", ""):
            if (folder / f"{variant.test}{suffix}").is_file():
                return folder, suffix
    binary, python = variant.folders
    raise DataError(
        f"{variant.name}: neither {binary} nor {python} in {root}; get the archive from its "
        "authors (https://www.cs.toronto.edu/~kriz/cifar.html), unpack it and give its folder"
    )


def _checked(read: Callable[[_Variant, Path], _Part], variant: _Variant, path: Path) -> _Part:
    if not path.is_file():
        raise DataError(f"{variant.name}: no {path.name} in {path.parent}")
    images, labels = read(variant, path)
    if images.ndim != 2 or images.shape != (len(labels), _PIXELS) or not len(labels):  # noqa: PLR2004
        found = f"{len(labels)} labels and pixels of shape {images.shape}"
        raise DataError(f"{path}: {found}, expected (images, {_PIXELS}) and a label for each")
    return images, labels


def _read_binary(variant: _Variant, path: Path) -> _Part:
    data = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    record = variant.label_bytes + _PIXELS
    if not len(data) or len(data) % record:
        raise DataError(f"{path}: {len(data)} bytes, expected a multiple of {record}")
    records = data.reshape(-1, record)
    labels = records[:, variant.label_bytes - 1].astype(np.int64)
    return records[:, variant.label_bytes :], labels


def _read_python(variant: _Variant, path: Path) -> _Part:
    content = _unpickle(path)
    try:
        images = np.asarray(content[b"data"], dtype=np.uint8)
        labels = np.asarray(content[variant.label_key], dtype=np.int64)
    except (KeyError, TypeError, ValueError, OverflowError):
        expected = f"expected a dictionary of data and {variant.label_key.decode()}"
        raise DataError(f"{path}: {expected}") from None
    return images, labels.reshape(-1)


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler of numpy arrays and built-in containers; any other class is refused."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        if module_name == "numpy" and global_name in {"ndarray", "dtype"}:
            return getattr(np, global_name)
        if (module_name.split(".", maxsplit=1)[0], global_name) == ("numpy", "_reconstruct"):
            return _empty_array
        if (module_name, global_name) == ("_codecs", "encode"):
            return _encode
        raise pickle.UnpicklingError(f"{module_name}.{global_name} is not an array")


def _empty_array(_kind: type, _shape: Sequence[int], _code: bytes) -> npt.NDArray[np.uint8]:
    """Stand in for numpy's private function of that name: the pickle fills the array next."""
    return np.empty(0, dtype=np.uint8)


def _encode(text: str, encoding: str) -> bytes:
    """Turn text back into the bytes that Python 3 pickled as text in protocol 2."""
    return text.encode(encoding)


def _unpickle(path: Path) -> Mapping[bytes, Any]:
    try:
        content = _ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    # A damaged pickle can raise almost anything.
    except Exception as error:
        raise DataError(f"{path}: not a CIFAR file in its Python form ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds {type(content).__name__}, expected a dictionary")
    return content


def _split(parts: Sequence[_Part]) -> TensorImages:
    images = np.concatenate([images for images, _ in parts])
    labels = np.concatenate([labels for _, labels in parts])
    return TensorImages(torch.from_numpy(images).view(-1, *_SHAPE), torch.from_numpy(labels))


def _class_names(variant: _Variant, folder: Path) -> tuple[str, ...]:
    """Return the names in the binary form's text file, else the class numbers."""
    for name in ("batches.meta.txt", "fine_label_names.txt"):
        path = folder / name
        if path.is_file():
            names = tuple(path.read_text(encoding="utf-8", errors="replace").split())
            if len(names) == variant.num_classes:
                return names
    return tuple(map(str, range(variant.num_classes)))
