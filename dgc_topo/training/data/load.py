"""`load_dataset`: data sets by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Literal, overload

from dgc_topo.training.data import austen, fashion_mnist, image_folder
from dgc_topo.training.data.cifar import load_cifar
from dgc_topo.training.data.dataset import Dataset, ImageDataset, TextDataset
from dgc_topo.training.data.dataset_files import DataError

_NEEDS_FILES: Mapping[str, Callable[[Path | None], Dataset]] = MappingProxyType(
    {
        fashion_mnist.NAME: fashion_mnist.load_full,
        "cifar10": partial(load_cifar, "cifar10"),
        "cifar100": partial(load_cifar, "cifar100"),
        image_folder.NAME: image_folder.load_image_folder,
    }
)
_SHIPPED: Mapping[str, Callable[[], Dataset]] = MappingProxyType(
    {
        austen.NAME: austen.load_austen,
        fashion_mnist.SUBSET_NAME: fashion_mnist.load_subset,
    }
)


def dataset_names() -> tuple[str, ...]:
    """Return the names that `load_dataset` knows, sorted."""
    return tuple(sorted((*_NEEDS_FILES, *_SHIPPED)))


@overload
def load_dataset(name: Literal["austen"], *, root: None = None) -> TextDataset: ...


@overload
def load_dataset(
    name: Literal["cifar10", "cifar100", "fashion-mnist", "fashion-mnist-subset", "image-folder"],
    *,
    root: Path | str | None = None,
    image_size: int | None = None,
) -> ImageDataset: ...


@overload
def load_dataset(
    name: str, *, root: Path | str | None = None, image_size: int | None = None
) -> Dataset: ...


def load_dataset(
    name: str, *, root: Path | str | None = None, image_size: int | None = None
) -> Dataset:
    """Return a data set by its *name*.

    ``austen`` and ``fashion-mnist-subset`` are shipped with the package.  ``fashion-mnist`` is
    fetched by `fetch_fashion_mnist`; ``cifar10``, ``cifar100`` and ``image-folder`` are the
    user's own files.

    Args:
        name: One of `dataset_names`.
        root: Folder with the files; by default the folder *name* in `data_dir`.  A shipped set
            takes none.
        image_size: Height and width in pixels; for ``image-folder`` only (64 by default).

    Raises:
        DataError: if the name is unknown, an argument does not fit it, or its files are missing
            or damaged.
    """
    if image_size is not None and name != image_folder.NAME:
        raise DataError(f"{name}: takes no image_size, only {image_folder.NAME} does")
    if name in _SHIPPED:
        if root is not None:
            raise DataError(f"{name}: is part of this package and takes no root, got {root}")
        return _SHIPPED[name]()
    if name not in _NEEDS_FILES:
        raise DataError(f"data set {name!r}: expected one of {', '.join(dataset_names())}")
    path = None if root is None else Path(root).expanduser()
    if image_size is not None:
        return image_folder.load_image_folder(path, image_size=image_size)
    return _NEEDS_FILES[name](path)
