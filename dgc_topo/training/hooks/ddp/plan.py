"""Settings of DDP's hook beside the user's optimizer, whose momentum may move into it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from pydantic_core import to_jsonable_python
from torch import nn
from torch.optim import Optimizer

from dgc_topo.compression.config import DGCConfig
from dgc_topo.sizes import is_sparse
from dgc_topo.training.hooks.ddp.takeover import Takeover, takeover_of
from dgc_topo.training.hooks.settings import hook_config
from dgc_topo.training.optimizer.hyperparameters import hyperparameters


def settings_text(config: DGCConfig) -> str:
    """Return the settings that a log line names."""
    parts = [f"density {config.density:g}"]
    if config.warm_up != "none":
        parts.append(f"after a warm-up of {config.warm_up_epochs:g} steps ({config.warm_up})")
    if config.momentum:
        parts.append(f"{'Nesterov ' if config.nesterov else ''}momentum {config.momentum:g} in DGC")
    return ", ".join(parts)


def local_decays(
    where: str, config: DGCConfig, moved: Mapping[str, float], names: Iterable[str]
) -> tuple[DGCConfig, dict[str, float]]:
    """Return settings without local weight decay, and each parameter's local weight decay.

    The hook adds it itself, because an optimizer's groups may have different ones.

    Args:
        where: Name of the hook in errors.
        config: Settings.
        moved: Weight decay by parameter name, as the optimizer has it.
        names: Names of all parameters.

    Raises:
        ValueError: if both have some.
    """
    if config.weight_decay and moved:
        raise ValueError(
            f"{where}: weight_decay {config.weight_decay:g} and that of the optimizer, expected "
            "one of both"
        )
    if not config.weight_decay or config.weight_decay_mode != "local":
        return config, dict(moved)
    decays = dict.fromkeys(names, config.weight_decay)
    return replace(config, weight_decay=0.0), decays


class HookPlan(NamedTuple):
    """Settings of a hook beside the user's optimizer.

    Attributes:
        config: DGC's settings.
        decays: Local weight decay by parameter name, which the hook adds.
        moved: What the optimizer is to give up.
    """

    config: DGCConfig
    decays: dict[str, float]
    moved: Takeover


def plan_of(
    where: str,
    parameters: Mapping[str, nn.Parameter],
    optimizer: Optimizer | None,
    density: float | str,
    settings: Mapping[str, Any],
) -> HookPlan:
    """Return the settings; nothing is changed yet.

    Args:
        where: Name of the hook in errors.
        parameters: The model's, by name.
        optimizer: The user's, or None.
        density: See `hook_config`.
        settings: Those of `hook_config`, and others of `DGCConfig`.

    Raises:
        ValueError: if some can't be honoured, or momentum or weight decay are both given and the
            optimizer's.
    """
    given = {"momentum": 0.0, **settings}
    plain = hook_config(where, density, **given)
    if plain.momentum and not is_sparse(plain.density):
        raise ValueError(
            f"{where}: momentum {plain.momentum} at density 1, where nothing is compressed; "
            "expected 0: the optimizer's own momentum does it"
        )
    moved = Takeover()
    if optimizer is not None and is_sparse(plain.density):
        moved = takeover_of(where, optimizer, parameters)
    if moved.momentum:
        if plain.momentum:
            raise ValueError(
                f"{where}: momentum {plain.momentum:g} and that of the optimizer, "
                f"{moved.momentum:g}, expected one of both"
            )
        given |= {"momentum": moved.momentum, "nesterov": moved.nesterov}
        plain = hook_config(where, density, **given)
    return HookPlan(*local_decays(where, plain, moved.decays, parameters), moved)


def shared_settings(
    parameters: Mapping[str, nn.Parameter], plan: HookPlan, optimizer: Optimizer | None
) -> dict[str, Any]:
    """Return the settings that must be equal on every rank, as JSON values by key.

    Args:
        parameters: The model's, by name.
        plan: The hook's settings.
        optimizer: The user's, before momentum moves out of it; None if the hook does not know it.
    """
    own = {} if optimizer is None else hyperparameters(optimizer)
    tensors = {name: f"{tuple(each.shape)} {each.dtype}" for name, each in parameters.items()}
    config: dict[str, Any] = to_jsonable_python(asdict(plan.config))
    return {**config, "weight decay by parameter": plan.decays, **own, **tensors}
