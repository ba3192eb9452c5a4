"""The model zoo: true layer shapes, and compute times with their sources; needs no torch.

Read `model` first; a module per family of models follows, written with the sizes in `layers`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import cache

from dgc_topo.zoo.convnets import (
    alexnet,
    resnet20_cifar,
    resnet50,
    resnet56_cifar,
    resnet110_cifar,
    vgg16,
)
from dgc_topo.zoo.model import ComputeTime, Layer, LayerKind, Model
from dgc_topo.zoo.recurrent import deepspeech, ptb_lstm
from dgc_topo.zoo.transformers import bert_large, gpt2_medium, gpt2_small, vit_b16

__all__ = ["ComputeTime", "Layer", "LayerKind", "Model", "known_models", "load_model"]

_BUILDERS: dict[str, Callable[[], Model]] = {
    "alexnet": alexnet,
    "vgg16": vgg16,
    "resnet50": resnet50,
    "resnet20-cifar": resnet20_cifar,
    "resnet56-cifar": resnet56_cifar,
    "resnet110-cifar": resnet110_cifar,
    "ptb-lstm": ptb_lstm,
    "deepspeech": deepspeech,
    "bert-large": bert_large,
    "gpt2-small": gpt2_small,
    "gpt2-medium": gpt2_medium,
    "vit-b16": vit_b16,
}


def known_models() -> tuple[str, ...]:
    """Return the names that `load_model` knows.

    Example:
        >>> "resnet50" in dt.known_models()
        True
    """
    return tuple(_BUILDERS)


@cache
def load_model(name: str) -> Model:
    """Return a model at the batch size its compute time was taken at.

    Raises:
        ValueError: if there is no such model.
    """
    if name not in _BUILDERS:
        close = difflib.get_close_matches(name, known_models(), n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        known = ", ".join(known_models())
        raise ValueError(f"model {name!r}: unknown{hint}; expected one of {known}")
    return _BUILDERS[name]()
