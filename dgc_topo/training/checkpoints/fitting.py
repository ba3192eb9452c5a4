"""Checks that the state in a checkpoint fits the objects that it is to be loaded into."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from dgc_topo.training.checkpoints.errors import CheckpointError
from dgc_topo.training.checkpoints.manifest import Manifest
from dgc_topo.training.optimizer.facade import Facade


def check_names(folder: Path, manifest: Manifest, objects: Mapping[str, Any]) -> None:
    """Refuse objects by other names, and optimizers and schedules of another kind.

    Raises:
        CheckpointError: naming them.
    """
    missing = [name for name in manifest.settings if name not in objects]
    unknown = [name for name in objects if name not in manifest.settings]
    if missing or unknown:
        raise CheckpointError(
            f"{folder}: the checkpoint holds {sorted(manifest.settings)}, got "
            f"{sorted(objects)}: missing {missing}, unknown {unknown}; expected the same names"
        )
    for name, each in objects.items():
        _check_kind(f"{folder}: {name}", manifest.settings[name], each)


def _check_kind(where: str, saved: str, value: Any) -> None:
    """Refuse the state of another kind of optimizer or schedule, which torch would take.

    A `DistributedOptimizer` may begin with the state of what it wraps.
    """
    wrapped = value._wrapped if isinstance(value, Facade) else value  # noqa: SLF001
    kinds = [type(each).__name__ for each in (value, wrapped)]
    if isinstance(value, Optimizer | LRScheduler) and saved not in kinds:
        raise CheckpointError(f"{where}: is {kinds[0]}, expected {saved}, as it was saved")


def check_fits(where: str, value: Any, state: Any) -> None:
    """Refuse a state whose shapes are not those of the object, where that can be told.

    Raises:
        CheckpointError: naming the tensor.
    """
    if isinstance(value, nn.Module):
        _check_shapes(where, state, value.state_dict())
    elif isinstance(value, Optimizer):
        _check_optimizer(where, value, state)


def _check_shapes(where: str, state: Mapping[str, Any], live: Mapping[str, Any]) -> None:
    odd = sorted(state.keys() ^ live.keys())
    if odd:
        raise CheckpointError(f"{where}: {odd}: on one side only, expected the same names")
    for name, tensor in live.items():
        if isinstance(tensor, Tensor) and tensor.shape != state[name].shape:
            raise CheckpointError(
                f"{where}: {name!r} is {tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
            )


def _check_optimizer(where: str, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    groups, saved = optimizer.param_groups, state["param_groups"]
    found, expected = ([len(group["params"]) for group in each] for each in (saved, groups))
    if found != expected:
        raise CheckpointError(f"{where}: groups of {found} parameters, expected {expected}")
    live = [parameter for group in groups for parameter in group["params"]]
    numbers = [number for group in saved for number in group["params"]]
    for number, parameter in zip(numbers, live, strict=True):
        for key, tensor in state["state"].get(number, {}).items():
            # Factored moments have sides of 1.
            fits = (
                not isinstance(tensor, Tensor)
                or tensor.dim() != parameter.dim()
                or all(a in {1, b} for a, b in zip(tensor.shape, parameter.shape, strict=True))
            )
            if not fits:
                raise CheckpointError(
                    f"{where}: {key} of parameter {number} is {tuple(tensor.shape)}, expected "
                    f"{tuple(parameter.shape)}"
                )
