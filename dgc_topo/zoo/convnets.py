"""AlexNet and VGG-16 for ImageNet: 1000 classes, images of 224 x 224 (AlexNet: 227 x 227)."""

from __future__ import annotations

from dgc_topo.zoo.layers import convolution, linear
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
