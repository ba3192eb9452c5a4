"""Architectures: a perceptron and two convolutional nets for images, and an LSTM for text."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_map

_POOLINGS = 2  # each halves the side of what the small net sees
_RESIDUAL_STAGES = 3
_CONVOLUTIONS_PER_BLOCK = 2
_MIN_DEPTH = 8  # one block per stage, the first convolution and the classifier

LstmState = tuple[Tensor, Tensor]  # hidden and cell, each (num_layers, batch, hidden_size)


class Mlp(nn.Module):
    """One hidden layer: the smallest model that learns something, for quick tests.

    Args:
        shape: Channels, height and width of an image.
        num_classes: Classes to tell apart.
        hidden_size: Width of the hidden layer.
    """

    def __init__(self, shape: tuple[int, int, int], num_classes: int, hidden_size: int) -> None:
        super().__init__()
        channels, height, width = shape
        self.hidden = nn.Linear(channels * height * width, hidden_size)
        self.classifier = nn.Linear(hidden_size, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, shape (batch, num_classes), of images (batch, channels, height, width)."""
        return cast("Tensor", self.classifier(functional.relu(self.hidden(images.flatten(1)))))


class Cnn(nn.Module):
    """Two 3x3 convolutions with pooling and one hidden layer; no normalisation layers.

    Without batch statistics every worker computes the same function of the same weights, so
    what N workers learn is what one worker with the global batch would learn.  For 28x28 grey
    images and ten classes it has 105,866 parameters, 95 % of them in one matrix.

    Args:
        shape: Channels, height and width of an image; sides of at least 4 pixels.
        num_classes: Classes to tell apart.
        width: Channels after the first convolution; the second has twice as many.
        hidden_size: Width of the hidden layer.

    Raises:
        ValueError: if images are too small to be halved twice.
    """

    def __init__(
        self, shape: tuple[int, int, int], num_classes: int, width: int, hidden_size: int
    ) -> None:
        super().__init__()
        channels, *sides = shape
        rows, columns = (side >> _POOLINGS for side in sides)
        if not rows or not columns:
            raise ValueError(f"cnn: images of {sides[0]} x {sides[1]}, expected at least 4 x 4")
        self.first = nn.Conv2d(channels, width, kernel_size=3, padding=1)
        self.second = nn.Conv2d(width, 2 * width, kernel_size=3, padding=1)
        self.hidden = nn.Linear(2 * width * rows * columns, hidden_size)
        self.classifier = nn.Linear(hidden_size, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, shape (batch, num_classes), of images (batch, channels, height, width)."""
        # Pooling before the non-linearity gives the same numbers for a quarter of its work.
        features = functional.relu(functional.max_pool2d(self.first(images), 2))
        features = functional.relu(functional.max_pool2d(self.second(features), 2))
        features = functional.relu(self.hidden(features.flatten(1)))
        return cast("Tensor", self.classifier(features))


class _Block(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters (option A of the paper)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(in_channels, out_channels, stride)
        self.first_norm = nn.BatchNorm2d(out_channels)
        self.second = _convolution(out_channels, out_channels, stride=1)
        self.second_norm = nn.BatchNorm2d(out_channels)
        self.stride = stride
        self.new_channels = out_channels - in_channels

    def forward(self, features: Tensor) -> Tensor:
        residual = functional.relu(self.first_norm(self.first(features)))
        residual = self.second_norm(self.second(residual))
        shortcut = features[:, :, :: self.stride, :: self.stride]
        before = self.new_channels // 2
        shortcut = functional.pad(shortcut, (0, 0, 0, 0, before, self.new_channels - before))
        return functional.relu(residual + shortcut)


class ResNet(nn.Module):
    """The residual net for small images: three stages of equal blocks, 6n + 2 layers deep.

    With 3x32x32 images and ten classes, depth 20 has 0.27 and depth 110 1.73 million parameters.
    Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016,
    section 4.2; it takes any number of channels and any side.

    Batch normalisation makes workers differ: each normalises by its own batch, and each keeps
    its own running mean and variance, which are buffers and never part of the gradient.  Average
    `running_statistics` over the workers before evaluating or saving, else every worker measures
    a model of its own.

    Args:
        shape: Channels, height and width of an image.
        num_classes: Classes to tell apart.
        depth: Layers with weights: 8, 14, 20, 32, 44, 56, 110 and so on.
        width: Channels of the first stage; doubled in each of the next two.

    Raises:
        ValueError: if *depth* is not 6n + 2.
    """

    def __init__(
        self, shape: tuple[int, int, int], num_classes: int, depth: int, width: int
    ) -> None:
        super().__init__()
        per_block = _RESIDUAL_STAGES * _CONVOLUTIONS_PER_BLOCK
        blocks, rest = divmod(depth - 2, per_block)
        if rest or depth < _MIN_DEPTH:
            raise ValueError(f"resnet: depth {depth}, expected 8, 14, 20, ... (6n + 2)")
        self.first = _convolution(shape[0], width, stride=1)
        self.first_norm = nn.BatchNorm2d(width)
        layers: list[nn.Module] = []
        channels = width
        for stage in range(_RESIDUAL_STAGES):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                layers.append(_Block(channels, width << stage, stride))
                channels = width << stage
        self.blocks = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, shape (batch, num_classes), of images (batch, channels, height, width)."""
        features = functional.relu(self.first_norm(self.first(images)))
        features = self.blocks(features).mean(dim=(2, 3))
        return cast("Tensor", self.classifier(features))


def _convolution(in_channels: int, out_channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)


def running_statistics(model: nn.Module) -> list[Tensor]:
    """Return the buffers of *model* that workers must average: running means and variances.

    They are the tensors themselves, float, in the same order on every worker; average each over
    the workers in place, for instance by an all-reduce with a dense schedule.  Empty for a model
    without batch normalisation.
    """
    return [buffer for buffer in model.buffers() if torch.is_floating_point(buffer)]


class CharLstm(nn.Module):
    """Character model that carries its hidden state: embedding, LSTM, linear read-out.

    The defaults (2 layers of 128, embedding of 64 for 81 characters) have 0.25 million
    parameters.  Forget gates start open (bias 1), so that a gradient survives the first windows
    (Jozefowicz, Zaremba, Sutskever, "An Empirical Exploration of Recurrent Network
    Architectures", ICML 2015).

    Args:
        num_tokens: Size of the vocabulary.
        embedding_size: Numbers per token.
        hidden_size: Width of each layer.
        num_layers: Layers of the LSTM.
        dropout: Share of activations dropped between layers while training, in [0, 1).
        recurrent_bias: True if the LSTM has biases.  In a small one they are so large a share of
            the parameters that, travelling dense, they would be most of what DGC sends.
    """

    def __init__(
        self,
        num_tokens: int,
        embedding_size: int,
        hidden_size: int,
        num_layers: int,
        dropout: float,
        *,
        recurrent_bias: bool = True,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_tokens, embedding_size)
        self.lstm = nn.LSTM(
            embedding_size,
            hidden_size,
            num_layers,
            bias=recurrent_bias,
            batch_first=True,
            dropout=dropout,
        )
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden_size, num_tokens)
        with torch.no_grad():
            for layer in range(num_layers) if recurrent_bias else ():
                bias = self.lstm.get_parameter(f"bias_ih_l{layer}")
                bias[hidden_size : 2 * hidden_size] += 1  # gates are in the order i, f, g, o

    def forward(self, tokens: Tensor, state: LstmState | None = None) -> tuple[Tensor, LstmState]:
        """Return logits of the next token at every place, and the state to go on from.

        Args:
            tokens: int64, shape (batch, time).
            state: State that the window before returned; None at the start of a text.

        Returns:
            Logits of shape (batch, time, num_tokens), and the state, still part of the graph:
            detach it before the next window.
        """
        hidden, state = self.lstm(self.embedding(tokens), state)
        return self.classifier(self.dropout(hidden)), state


def detach(state: Any) -> Any:
    """Return *state* cut off from the graph, so that gradients end at the window's edge."""
    return tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, state)
