"""Random crops and mirror images, driven by numbers that the batch plan drew.

The numbers belong to the sample's place in the global batch, not to the worker, so N workers
augment exactly as one would.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

CROP_FLIP_RANDOMS = 3  #: random numbers that `crop_flip` needs per image
_FLIP_BELOW = 0.5


def crop_flip(images: Tensor, randoms: Tensor, padding: int = 4) -> Tensor:
    """Return *images* shifted by up to *padding* pixels each way, half of them mirrored.

    The usual augmentation of CIFAR (He et al., "Deep Residual Learning", 2016, section 4.2);
    what is shifted in is black.

    Args:
        images: uint8, shape (num_images, channels, height, width).
        randoms: Numbers in [0, 1), shape (num_images, 3).
        padding: Largest shift, pixels.

    Returns:
        uint8 of the same shape.
    """
    height, width = images.shape[2:]
    padded = functional.pad(images, (padding,) * 4).permute(0, 2, 3, 1)
    top, left = (randoms[:, :2] * (2 * padding + 1)).to(torch.int64).unbind(1)
    columns = torch.arange(width).expand(len(images), width)
    columns = torch.where(randoms[:, 2:] < _FLIP_BELOW, columns.flip(1), columns)
    rows = torch.arange(height) + top[:, None]
    columns = columns + left[:, None]
    image = torch.arange(len(images))[:, None, None]
    return padded[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
