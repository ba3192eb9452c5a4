"""Modules to measure: models of the zoo as torch knows them, and those of the user's own."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from dgc_topo.python_files import CodeError, explained, load_function, split_name
from dgc_topo.training.models.architectures import ResNet
from dgc_topo.training.models.own import OwnModel
from dgc_topo.zoo import known_models, load_model

#: Function from a batch size to a module's input: a tensor, or a tuple or dictionary of arguments.
Examples = Callable[[int], Any]

_SHAPE = re.compile(r"\d+(x\d+)*")
_IMAGENET = (3, 224, 224)
_GPT2_LENGTH, _BERT_LENGTH = 1024, 128
_MOST_ELEMENTS = 2**31  #: of one item, beyond which a shape is a slip of the pen


@dataclass(frozen=True, slots=True)
class Runnable:
    """A module that can be run.

    Attributes:
        name: Name for people.
        module: The module, on the CPU.
        examples: Makes its input.
        batch_size: Items of a batch, unless another is asked for.
        samples_per_item: Samples that throughput counts in an item.
        samples: Plural of what throughput counts.
    """

    name: str
    module: nn.Module
    examples: Examples
    batch_size: int
    samples_per_item: float = 1.0
    samples: str = "samples"


def runnable(source: Any, examples: str | Examples | None) -> Runnable:
    """Return the module of a source, and what to run it on.

    Args:
        source: A zoo model's name, ``file.py:Net``, or a module.
        examples: Shape of an item such as ``3x224x224``, of normal numbers; or a function from a
            batch size to an input, or its name ``file.py:NAME``.  Models of the zoo have their own.

    Raises:
        ValueError: if the module cannot be made, or nothing says what its input is.
    """
    if isinstance(source, nn.Module):
        return Runnable(type(source).__name__, source, _examples(examples), 1)
    if isinstance(source, str) and source in known_models():
        if examples is not None:
            raise ValueError(f"input: {source} has its own, expected none")
        return _of_zoo(source)
    if not isinstance(source, str) or split_name(source) is None:
        raise ValueError(
            f"model {source!r}: cannot be run here, expected a module, the form file.py:NAME, or "
            f"one of {', '.join(_BUILDERS)}"
        )
    made = _examples(examples)
    module = OwnModel(source, load_function(source)).builder({})(0)
    return Runnable(type(module).__name__, module, made, 1)


def _examples(given: str | Examples | None) -> Examples:
    if given is None:
        raise ValueError(
            "input: missing for a model of your own, expected the shape of an item, such as "
            "3x224x224, or file.py:NAME, a function of a batch size that returns the input"
        )
    if not isinstance(given, str):
        return given
    if split_name(given) is not None:
        return _explained(given, load_function(given))
    if not _SHAPE.fullmatch(given):
        raise ValueError(
            f"input {given!r}: expected the shape of an item, such as 3x224x224, or file.py:NAME"
        )
    shape = tuple(map(int, given.split("x")))
    if not 1 <= prod(shape) <= _MOST_ELEMENTS:
        raise ValueError(f"input {given!r}: expected sizes of 1 or more, 2**31 in all at most")
    return lambda batch_size: torch.randn(batch_size, *shape)


def _explained(label: str, function: Callable[[int], Any]) -> Examples:
    def examples(batch_size: int) -> Any:
        with explained(label, f", called with {batch_size}"):
            return function(batch_size)

    return examples


def _of_zoo(name: str) -> Runnable:
    """Return a model of the zoo, made by the library that has it, with as many parameters."""
    model = load_model(name)
    if name not in _BUILDERS:
        raise ValueError(
            f"model {name}: no library here makes it, so it cannot be measured; expected one of "
            f"{', '.join(_BUILDERS)}, file.py:NAME, or its step time"
        )
    library, build, examples = _BUILDERS[name]
    try:
        import_module(library)
    except ImportError as error:
        raise ValueError(
            f"model {name}: measuring it needs {library}, which is not installed; expected it, or "
            "the model as file.py:NAME, or its step time"
        ) from error
    module = build()
    found = sum(each.numel() for each in module.parameters() if each.requires_grad)
    if found != model.num_elements:
        raise CodeError(
            f"model {name}: {library} makes one of {found:,} parameters, expected "
            f"{model.num_elements:,}"
        )
    return Runnable(name, module, examples, model.batch_size, model.samples_per_item, model.samples)


def _vision(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        made: nn.Module = getattr(import_module("torchvision.models"), name)(weights=None)
        return made

    return build


def _gpt2(width: int, blocks: int, heads: int) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        hub = import_module("transformers")
        config = hub.GPT2Config(n_embd=width, n_layer=blocks, n_head=heads, use_cache=False)
        made: nn.Module = hub.GPT2LMHeadModel(config)
        return made

    return build


def _bert_large() -> nn.Module:
    hub = import_module("transformers")
    config = hub.BertConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
    )
    made: nn.Module = hub.BertForPreTraining(config)
    return made


def _images(*shape: int) -> Examples:
    return lambda batch_size: torch.randn(batch_size, *shape)


def _words(vocabulary: int, length: int) -> Examples:
    def draw(batch_size: int) -> dict[str, Tensor]:
        return {"input_ids": torch.randint(vocabulary, (batch_size, length))}

    return draw


def _resnet_cifar(depth: int) -> Callable[[], nn.Module]:
    return lambda: ResNet((3, 32, 32), 10, depth, 16)


_CIFAR = _images(3, 32, 32)
#: Library, function and input of each model of the zoo that can be made.
_BUILDERS: dict[str, tuple[str, Callable[[], nn.Module], Examples]] = {
    "resnet20-cifar": ("torch", _resnet_cifar(20), _CIFAR),
    "resnet56-cifar": ("torch", _resnet_cifar(56), _CIFAR),
    "resnet110-cifar": ("torch", _resnet_cifar(110), _CIFAR),
    "resnet50": ("torchvision", _vision("resnet50"), _images(*_IMAGENET)),
    "vgg16": ("torchvision", _vision("vgg16"), _images(*_IMAGENET)),
    "vit-b16": ("torchvision", _vision("vit_b_16"), _images(*_IMAGENET)),
    "gpt2-small": ("transformers", _gpt2(768, 12, 12), _words(50_257, _GPT2_LENGTH)),
    "gpt2-medium": ("transformers", _gpt2(1024, 24, 16), _words(50_257, _GPT2_LENGTH)),
    "bert-large": ("transformers", _bert_large, _words(30_522, _BERT_LENGTH)),
}
