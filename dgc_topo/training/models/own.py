"""Models, data sets and losses by functions of the user's own, called with their options."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dgc_topo.python_files import CodeError, explained
from dgc_topo.training.data import SampleDataset
from dgc_topo.training.models.build import Option
from dgc_topo.training.setting import check_loadable, check_settable, tensors_of

DATA_PATH = "data_path"  #: parameter of a data set's function that takes ``train.data_path``


@dataclass(frozen=True, slots=True)
class OwnFunction:
    """A function or class of the user's own.

    Attributes:
        label: ``file.py:NAME``, for errors.
        function: The function.
    """

    label: str
    function: Callable[..., Any]

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call it; whatever it raises becomes a `CodeError` with file and line."""
        with explained(self.label):
            return self.function(*args, **options)

    def names(self) -> list[str]:
        """Return the names of the parameters that options can be given to.

        Raises:
            CodeError: if they are not known, as those of some functions in C.
        """
        return [p.name for p in self._parameters() if p.kind in _BY_NAME]

    def takes_any(self) -> bool:
        """Return True if it takes options of any name."""
        return any(p.kind is p.VAR_KEYWORD for p in self._parameters())

    def check_options(self, options: Mapping[str, Option]) -> None:
        """Refuse options that it does not take, and options that are missing.

        Raises:
            CodeError: naming the option.
        """
        known = self.names()
        for key in options:
            if key not in known and not self.takes_any():
                listed = f"expected some of {', '.join(known)}" if known else "it has none"
                raise CodeError(f"{self.label}: unknown option {key!r}, {listed}")
        needed = (
            p.name
            for p in self._parameters()
            if p.default is p.empty and p.kind not in {p.VAR_KEYWORD, p.VAR_POSITIONAL}
        )
        missing = [name for name in needed if name not in options]
        if missing:
            places = "train.data_path" if missing == [DATA_PATH] else "train.options"
            raise CodeError(f"{self.label}: needs {', '.join(missing)}, expected it in {places}")

    def _parameters(self) -> list[inspect.Parameter]:
        try:
            return list(inspect.signature(self.function).parameters.values())
        except (TypeError, ValueError) as error:
            raise CodeError(f"{self.label}: its parameters are not known: {error}") from error


_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True, slots=True)
class OwnModel(OwnFunction):
    """A module's class, or a function that returns a module."""

    def builder(self, options: Mapping[str, Option]) -> Callable[[int], nn.Module]:
        """Return a function of a seed that makes the model.

        Raises:
            CodeError: if it takes other options.
        """
        self.check_options(options)

        def build(seed: int) -> nn.Module:
            with seeded(seed):
                made = self(**options)
            if not isinstance(made, nn.Module):
                raise CodeError(f"{self.label}: made {type(made).__name__}, expected an nn.Module")
            if not any(parameter.requires_grad for parameter in made.parameters()):
                raise CodeError(f"{self.label}: the module has no parameters to train")
            tensors = tensors_of(made)
            try:
                check_settable(self.label, tensors)
                check_loadable(self.label, tensors)
            except ValueError as error:
                raise CodeError(str(error)) from error
            return made

        return build


@dataclass(frozen=True, slots=True)
class OwnData(OwnFunction):
    """A function that returns what to learn and what to test on."""

    def take_options(self, options: dict[str, Option]) -> dict[str, Option]:
        """Take those of *options* that it has a parameter for, and return them."""
        return {key: options.pop(key) for key in self.names() if key in options}

    def load(self, options: Mapping[str, Option], path: Path | None) -> SampleDataset:
        """Return its data set, the same in every process.

        Args:
            options: Its options.
            path: The user's ``data_path``, if there is one.

        Raises:
            CodeError: if it takes other options, no path, or fails.
            DataError: if what it returns is no data set.
        """
        given: dict[str, Any] = dict(options)
        if path is not None:
            if DATA_PATH not in self.names():
                raise CodeError(
                    f"{self.label}: train.data_path: expected none, or a function with a "
                    f"parameter {DATA_PATH!r}"
                )
            given[DATA_PATH] = path
        self.check_options(given)
        with seeded(0):
            made = self(**given)
        return SampleDataset.of(self.label, made)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw the random numbers of torch, NumPy and Python from *seed* in the block, on the CPU."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the user's code may
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
