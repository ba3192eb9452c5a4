"""Models by name, fitted to a data set and initialised from a seed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import torch
from torch import nn

from dgc_topo.training.data import Dataset, ImageDataset, SampleDataset, TextDataset
from dgc_topo.training.models.architectures import CharLstm, Cnn, Mlp, ResNet

Option = bool | int | float | str
AnyDataset = Dataset | SampleDataset


_Images = ImageDataset | SampleDataset


def _mlp(dataset: _Images, *, hidden_size: int = 32) -> nn.Module:
    return Mlp(dataset.shape, dataset.num_classes, hidden_size)


def _cnn(dataset: _Images, *, width: int = 16, hidden_size: int = 64) -> nn.Module:
    return Cnn(dataset.shape, dataset.num_classes, width, hidden_size)


def _resnet(dataset: _Images, depth: int, *, width: int = 16) -> nn.Module:
    return ResNet(dataset.shape, dataset.num_classes, depth, width)


def _char_lstm(
    dataset: TextDataset,
    *,
    embedding_size: int = 64,
    hidden_size: int = 128,
    num_layers: int = 2,
    dropout: float = 0.0,
    recurrent_bias: bool = True,
) -> nn.Module:
    sizes = (len(dataset.vocabulary), embedding_size, hidden_size, num_layers)
    return CharLstm(*sizes, dropout, recurrent_bias=recurrent_bias)


_IMAGE_MODELS: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {
        "cnn": _cnn,
        "mlp": _mlp,
        "resnet20": partial(_resnet, depth=20),
        "resnet56": partial(_resnet, depth=56),
        "resnet110": partial(_resnet, depth=110),
    }
)
TEXT_MODELS: Mapping[str, Callable[..., nn.Module]] = MappingProxyType({"char-lstm": _char_lstm})


def model_names(dataset: AnyDataset | None = None) -> tuple[str, ...]:
    """Return the names that `build_model` knows, sorted; with *dataset*, those that fit it."""
    if dataset is None:
        return tuple(sorted((*_IMAGE_MODELS, *TEXT_MODELS)))
    return tuple(sorted(_models_for(dataset)))


def model_options(name: str) -> dict[str, Option]:
    """Return the options of model *name* with their defaults.

    Raises:
        ValueError: if there is no such model.
    """
    builder = _IMAGE_MODELS.get(name) or TEXT_MODELS.get(name)
    if builder is None:
        raise ValueError(f"model {name!r}: expected one of {', '.join(model_names())}")
    parameters = inspect.signature(builder).parameters
    keywords = builder.keywords if isinstance(builder, partial) else {}
    return {
        key: parameter.default
        for key, parameter in parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and key not in keywords
    }


def build_model(name: str, dataset: AnyDataset, *, seed: int = 0, **options: Option) -> nn.Module:
    """Return model *name* for *dataset*, with weights that only *seed* and the options decide.

    Random numbers of the caller are left as they were.

    Args:
        name: One of `model_names`.
        dataset: Decides the sizes of the first and the last layer.
        seed: Of the initial weights.
        options: Some of `model_options`.

    Raises:
        ValueError: if the model is unknown or not for such data, or an option is unknown or out
            of range.
    """
    check_model(name, dataset, options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _models_for(dataset)[name](dataset, **options)


def check_model(name: str, dataset: AnyDataset, options: Mapping[str, Option]) -> None:
    """Raise `ValueError` unless model *name* exists, fits *dataset* and has such *options*."""
    model_options(name)  # there is such a model
    fitting = model_names(dataset)
    if name not in fitting:
        others = ", ".join(fitting)
        raise ValueError(f"model {name}: not for data set {dataset.name}, expected one of {others}")
    check_options(name, options)


def check_options(name: str, options: Mapping[str, Option]) -> None:
    """Raise `ValueError` unless model *name* exists and has such *options*."""
    defaults = model_options(name)
    for key, value in options.items():
        _check_option(name, key, value, defaults)


def _models_for(dataset: AnyDataset) -> Mapping[str, Callable[..., nn.Module]]:
    return TEXT_MODELS if isinstance(dataset, TextDataset) else _IMAGE_MODELS


def _check_option(name: str, key: str, value: Option, defaults: Mapping[str, Option]) -> None:
    """Raise `ValueError` unless a size is an integer above 0, a share in [0, 1), a flag a bool."""
    if key not in defaults:
        known = ", ".join(defaults)
        raise ValueError(f"model {name}: unknown option {key!r}, expected some of {known}")
    if isinstance(defaults[key], bool):
        valid, expected = isinstance(value, bool), "true or false"
    elif isinstance(defaults[key], float):
        valid = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1
        expected = "a number in [0, 1)"
    else:
        valid = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        expected = "an integer of at least 1"
    if not valid:
        raise ValueError(f"model {name}: option {key} = {value!r}, expected {expected}")
