"""Residual networks: ResNet-50 for ImageNet and ResNet-110 for CIFAR-10.

Architectures: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition",
arXiv:1512.03385, table 1 and section 4.2.
"""

from __future__ import annotations

from dgc_topo.zoo.convnets import images_per_second
from dgc_topo.zoo.layers import convolution, linear, normalised
from dgc_topo.zoo.model import ComputeTime, Layer, Model

_CIFAR_IMAGES = 50_000


def resnet50() -> Model:
    """Return ResNet-50, images of 224 x 224, 1000 classes: 25,557,032 parameters."""
    layers = [_convolution("conv1", 3, 64, 7, 112)]
    into = 64
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), 2):
        side = 56 // 2 ** (stage - 2)
        for block in range(blocks):
            layers += _bottleneck(f"conv{stage}_{block + 1}", into, width, side, block == 0)
            into = 4 * width
    layers.append(linear("fc", into, 1000))
    return Model(
        name="resnet50",
        summary="ResNet-50, ImageNet (He et al. 2015)",
        layers=tuple(layers),
        compute=images_per_second(
            {32: 195, 64: 219}, "ResNet-50 219 images/s at batch 64, 195 at batch 32"
        ),
        batch_size=64,
        item="images",
        samples="images",
    )


def _bottleneck(name: str, into: int, width: int, side: int, project: bool) -> list[Layer]:
    """Return 1x1, 3x3, 1x1 convolutions; the first halves the side where the stage begins."""
    layers = [
        _convolution(f"{name}.1", into, width, 1, side),
        _convolution(f"{name}.2", width, width, 3, side),
        _convolution(f"{name}.3", width, 4 * width, 1, side),
    ]
    if project:
        layers.append(_convolution(f"{name}.shortcut", into, 4 * width, 1, side))
    return layers


def resnet110_cifar() -> Model:
    """Return ResNet-110 for CIFAR-10 with parameter-free shortcuts: 1,727,962 parameters."""
    layers = [_convolution("conv1", 3, 16, 3, 32)]
    into = 16
    for stage, width in enumerate((16, 32, 64), 1):
        side = 64 // 2**stage
        for block in range(1, 19):
            for half in (1, 2):
                name = f"stage{stage}.{block}.{half}"
                layers.append(_convolution(name, into, width, 3, side))
                into = width
    layers.append(linear("fc", 64, 10))
    return Model(
        name="resnet110-cifar",
        summary="ResNet-110, CIFAR-10, shortcuts of option A (He et al. 2015)",
        layers=tuple(layers),
        compute=_keras_time(),
        batch_size=32,
        item="images",
        samples="images",
    )


def _convolution(name: str, into: int, out: int, kernel: int, side: int) -> Layer:
    """Return a square convolution with outputs of *side*, followed by batch normalisation."""
    return normalised(convolution(name, into, out, (kernel, kernel), (side, side)), out)


def _keras_time() -> ComputeTime:
    seconds_per_epoch, batch_size = 165, 32
    source = (
        "keras-team/keras, examples/cifar10_resnet.py, table 'sec/epoch GTX1080Ti': ResNet110 v1 "
        "165, with batch_size 32 and 50,000 images (303 images/s). Whole epochs of the example, "
        "so data augmentation and the validation pass are inside, and its two changes of width "
        "are 1x1 convolutions: an upper bound of the compute"
    )
    return ComputeTime(
        points=((batch_size, seconds_per_epoch * batch_size / _CIFAR_IMAGES),),
        hardware="one NVIDIA GTX 1080 Ti",
        precision="fp32",
        origin="published",
        source=source,
    )
