"""Convolutional networks: AlexNet, VGG-16 and ResNets, for ImageNet and CIFAR-10.

Images of ImageNet have 224 x 224 points (AlexNet: 227 x 227) and 1000 classes.  ResNets are those
of He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", arXiv:1512.03385, table 1
and section 4.2.
"""

from __future__ import annotations

from dgc_topo.zoo.layers import convolution, linear, normalised
from dgc_topo.zoo.model import ComputeTime, Layer, Model

TENSORFLOW_GUIDE = (
    "TensorFlow performance guide, benchmarks of May 2017, 'Training synthetic data' on an NVIDIA "
    "DGX-1 (Tesla P100), CUDA 8.0, cuDNN 5.1, one GPU, optimizer sgd"
)
P100 = "one NVIDIA Tesla P100 of a DGX-1"


def images_per_second(rates: dict[int, float], source: str) -> ComputeTime:
    """Return fp32 compute times on a P100 from images per second at each batch size."""
    return ComputeTime(
        points=tuple((size, size / rate) for size, rate in sorted(rates.items())),
        hardware=P100,
        precision="fp32",
        origin="published",
        source=f"{TENSORFLOW_GUIDE}: {source}",
    )


def alexnet() -> Model:
    """Return AlexNet with its two groups in layers 2, 4 and 5: 60,965,224 parameters.

    Architecture: Krizhevsky, Sutskever, Hinton, NIPS 2012, figure 2.
    """
    layers = (
        convolution("conv1", 3, 96, (11, 11), (55, 55), bias=True),
        convolution("conv2", 96, 256, (5, 5), (27, 27), groups=2, bias=True),
        convolution("conv3", 256, 384, (3, 3), (13, 13), bias=True),
        convolution("conv4", 384, 384, (3, 3), (13, 13), groups=2, bias=True),
        convolution("conv5", 384, 256, (3, 3), (13, 13), groups=2, bias=True),
        linear("fc6", 256 * 6 * 6, 4096),
        linear("fc7", 4096, 4096),
        linear("fc8", 4096, 1000),
    )
    source = (
        "AlexNet 2987 images/s at batch 512. Its code (tf_cnn_benchmarks) runs the variant with "
        "64, 192, 384, 384 and 256 ungrouped filters: 16 % more operations than these layers; "
        "the time is taken over as published"
    )
    return Model(
        name="alexnet",
        summary="AlexNet, ImageNet, grouped (Krizhevsky et al. 2012)",
        layers=layers,
        compute=images_per_second({512: 2987}, source),
        batch_size=512,
        item="images",
        samples="images",
    )


def vgg16() -> Model:
    """Return VGG-16: 138,357,544 parameters.

    Architecture: Simonyan, Zisserman, arXiv:1409.1556, configuration D.
    """
    layers: list[Layer] = []
    into = 3
    for stage, (out, repeats) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), 1):
        side = 224 // 2 ** (stage - 1)
        for index in range(1, repeats + 1):
            name = f"conv{stage}_{index}"
            layers.append(convolution(name, into, out, (3, 3), (side, side), bias=True))
            into = out
    layers += [
        linear("fc6", 512 * 7 * 7, 4096),
        linear("fc7", 4096, 4096),
        linear("fc8", 4096, 1000),
    ]
    return Model(
        name="vgg16",
        summary="VGG-16, ImageNet (Simonyan and Zisserman 2014, configuration D)",
        layers=tuple(layers),
        compute=images_per_second(
            {32: 144, 64: 154}, "VGG16 154 images/s at batch 64, 144 at batch 32"
        ),
        batch_size=64,
        item="images",
        samples="images",
    )


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


def resnet20_cifar() -> Model:
    """Return ResNet-20 for CIFAR-10 with parameter-free shortcuts: 269,722 parameters."""
    return _resnet_cifar(20, seconds_per_epoch=35)


def resnet56_cifar() -> Model:
    """Return ResNet-56 for CIFAR-10 with parameter-free shortcuts: 853,018 parameters."""
    return _resnet_cifar(56, seconds_per_epoch=90)


def resnet110_cifar() -> Model:
    """Return ResNet-110 for CIFAR-10 with parameter-free shortcuts: 1,727,962 parameters."""
    return _resnet_cifar(110, seconds_per_epoch=165)


def _resnet_cifar(depth: int, seconds_per_epoch: int) -> Model:
    layers = [_convolution("conv1", 3, 16, 3, 32)]
    into = 16
    for stage, width in enumerate((16, 32, 64), 1):
        side = 64 // 2**stage
        for block in range(1, (depth - 2) // 6 + 1):
            for half in (1, 2):
                name = f"stage{stage}.{block}.{half}"
                layers.append(_convolution(name, into, width, 3, side))
                into = width
    layers.append(linear("fc", 64, 10))
    return Model(
        name=f"resnet{depth}-cifar",
        summary=f"ResNet-{depth}, CIFAR-10, shortcuts of option A (He et al. 2015)",
        layers=tuple(layers),
        compute=_keras_time(depth, seconds_per_epoch),
        batch_size=32,
        item="images",
        samples="images",
    )


def _convolution(name: str, into: int, out: int, kernel: int, side: int) -> Layer:
    """Return a square convolution with outputs of *side*, followed by batch normalisation."""
    return normalised(convolution(name, into, out, (kernel, kernel), (side, side)), out)


def _keras_time(depth: int, seconds_per_epoch: int) -> ComputeTime:
    batch_size = 32
    rate = _CIFAR_IMAGES / seconds_per_epoch
    source = (
        "keras-team/keras, examples/cifar10_resnet.py, table 'sec/epoch GTX1080Ti': "
        f"ResNet{depth} v1 {seconds_per_epoch}, with batch_size 32 and 50,000 images ({rate:.0f} "
        "images/s). Whole epochs of the example, so data augmentation and the validation pass are "
        "inside, and its two changes of width are 1x1 convolutions: an upper bound of the compute"
    )
    return ComputeTime(
        points=((batch_size, seconds_per_epoch * batch_size / _CIFAR_IMAGES),),
        hardware="one NVIDIA GTX 1080 Ti",
        precision="fp32",
        origin="published",
        source=source,
    )
