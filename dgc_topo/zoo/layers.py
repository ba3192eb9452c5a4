"""Layers by their sizes: shapes as PyTorch stores them, and operations of the forward pass.

Operations are those of the matrix multiplications and convolutions, two per multiplication; what
is done element by element (activations, normalisations, look-ups) is not counted.
"""

from __future__ import annotations

from math import prod

from dgc_topo.zoo.model import Layer, LayerKind, Shape


def convolution(
    name: str,
    into: int,
    out: int,
    kernel: tuple[int, int],
    at: tuple[int, int],
    *,
    groups: int = 1,
    bias: bool = False,
) -> Layer:
    """Return a 2-D convolution.

    Args:
        name: Name of the layer.
        into: Channels of the input.
        out: Channels of the output.
        kernel: Height and width.
        at: Height and width of the *output*.
        groups: Groups of channels that see only each other.
        bias: True if it adds a bias.
    """
    weight = (out, into // groups, *kernel)
    tensors: tuple[Shape, ...] = (weight, (out,)) if bias else (weight,)
    return Layer(name, "convolution", tensors, 2 * prod(weight) * prod(at))


def linear(
    name: str,
    into: int,
    out: int,
    *,
    bias: bool = True,
    positions: int = 1,
    kind: LayerKind = "linear",
) -> Layer:
    """Return a fully connected layer, applied at each of a number of *positions*."""
    tensors: tuple[Shape, ...] = ((out, into), (out,)) if bias else ((out, into),)
    return Layer(name, kind, tensors, 2 * into * out * positions)


def lstm(
    name: str, into: int, units: int, *, steps: int, directions: int = 1, bias: bool = True
) -> Layer:
    """Return one layer of long short-term memory; with *bias*, PyTorch's two vectors of them."""
    gates = 4 * units
    tensors: tuple[Shape, ...] = ((gates, into), (gates, units))
    if bias:
        tensors += ((gates,), (gates,))
    flops = 2 * gates * (into + units) * steps * directions
    return Layer(name, "lstm", tensors * directions, flops)


def normalised(layer: Layer, features: int) -> Layer:
    """Return the layer with a normalisation (a scale and a shift of *features*) added to it."""
    return Layer(layer.name, layer.kind, (*layer.tensors, (features,), (features,)), layer.flops)
