"""A folder of image files, one sub-folder per class, as ImageNet is usually laid out.

Files are decoded when a batch needs them, so the set may be larger than memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from dgc_topo.training.data.dataset import ImageDataset
from dgc_topo.training.data.dataset_files import DataError, dataset_dir

NAME = "image-folder"
DEFAULT_IMAGE_SIZE = 64
_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".webp"})
_TEST_FOLDERS = ("val", "validation", "test")
_DECODE_THREADS = 4
# Of the ImageNet training set, as is usual for photographs.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True, eq=False)
class FolderImages:
    """Image files that are decoded on demand.

    Attributes:
        paths: One file per image.
        labels: int64, shape (num_images,).
        image_size: Height and width they are cropped to, pixels.
    """

    paths: Sequence[Path]
    labels: Tensor
    image_size: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        return 3, self.image_size, self.image_size

    def __len__(self) -> int:
        return len(self.paths)

    def gather(self, indices: Tensor) -> Tensor:
        """Return the images at *indices* as uint8, shape (len(indices), 3, size, size).

        Raises:
            DataError: if a file cannot be decoded.
        """
        paths = [self.paths[index] for index in indices.tolist()]
        with ThreadPoolExecutor(_DECODE_THREADS) as pool:
            images = list(pool.map(self._decode, paths))
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()

    def _decode(self, path: Path) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
        """Return the central square of the image at *path*, its shorter side scaled to size."""
        size = self.image_size
        try:
            with Image.open(path) as file:
                image = file.convert("RGB")
        except (OSError, SyntaxError, UnidentifiedImageError) as error:
            raise DataError(f"{path}: cannot be decoded ({error})") from error
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        box = (left, top, left + side, top + side)
        resized = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
        return np.asarray(resized, dtype=np.uint8).reshape(size, size, 3)


def load_image_folder(
    root: Path | None = None, *, image_size: int = DEFAULT_IMAGE_SIZE
) -> ImageDataset:
    """Return the images of *root*/train/CLASS/* and *root*/val/CLASS/* (or validation, test).

    Classes are the sub-folders of train, in the order of their names.

    Args:
        root: The folder with both parts.
        image_size: Height and width of what the model sees, pixels: the central square of each
            file, scaled.

    Raises:
        DataError: if a part or its images are missing, or it has classes that train lacks.
    """
    if image_size < 1:
        raise DataError(f"{NAME}: image_size {image_size}, expected at least 1")
    folder = dataset_dir(NAME, root)
    test = next((folder / name for name in _TEST_FOLDERS if (folder / name).is_dir()), None)
    train = folder / "train"
    if test is None or not train.is_dir():
        raise DataError(f"{NAME}: expected the folders train and val (or test) in {folder}")
    classes = _classes(train)
    strange = sorted(set(_classes(test)) - set(classes))
    if strange:
        raise DataError(f"{test}: classes {', '.join(strange)} are not in {train}")
    return ImageDataset(
        name=NAME,
        train=_split(train, classes, image_size),
        test=_split(test, classes, image_size),
        class_names=classes,
        mean=_MEAN,
        std=_STD,
    )


def _classes(part: Path) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in part.iterdir() if path.is_dir()))


def _split(part: Path, classes: Sequence[str], image_size: int) -> FolderImages:
    files = [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted((part / name).glob("*"))
        if path.suffix.lower() in _SUFFIXES
    ]
    if not files:
        kinds = ", ".join(sorted(_SUFFIXES))
        raise DataError(f"{part}: no images, expected files of {kinds} in a folder per class")
    labels = torch.tensor([label for _, label in files], dtype=torch.int64)
    return FolderImages([path for path, _ in files], labels, image_size)
