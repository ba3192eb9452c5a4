"""Settings of hooks: those of DGC, without what a part of the gradient can't do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dgc_topo.compression.config import DGCConfig, config_of
from dgc_topo.training.in_steps import in_steps

_REFUSED = {
    "clip_norm": (
        "the norm of the whole gradient is known only after the backward pass, and parts of it "
        "leave before",
        "torch.nn.utils.clip_grad_norm_ between backward and step",
    ),
    "averaging": (
        "DistributedDataParallel averages gradients in every step",
        "dt.DistributedOptimizer(optimizer, model, averaging=...) without it",
    ),
    "warm_up_epochs": ("a hook sees steps, no epochs", "warm_up_steps"),
}


def hook_config(
    where: str, density: float | str, *, warm_up_steps: int = 0, **settings: Any
) -> DGCConfig:
    """Return DGC's settings for a hook; their warm-up counts steps instead of epochs.

    Args:
        where: Name of the hook in errors.
        density: Fraction of each compressed tensor that is sent after the warm-up.
        warm_up_steps: Optimizer steps of the warm-up; 0 for none.
        settings: Others of `DGCConfig`.

    Raises:
        ValueError: if a setting is unknown, out of range, or needs the whole gradient.
    """
    refuse(where, settings, _REFUSED)
    if settings.get("scope", "layer") != "layer":
        raise ValueError(
            f"{where}: scope {settings['scope']!r} selects from the whole gradient, but parts of "
            "it leave before the rest is known; expected 'layer'"
        )
    others = {name: value for name, value in settings.items() if name not in _REFUSED}
    config = config_of(
        None, {"density": density, **in_steps(where, warm_up_steps, others, elsewhere=_REFUSED)}
    )
    # Without momentum a velocity would be the gradient itself.
    return config if config.momentum else replace(config, momentum_correction=False)


def refuse(where: str, settings: Mapping[str, Any], refused: Mapping[str, tuple[str, str]]) -> None:
    """Refuse settings that a hook cannot honour; None is as good as not given.

    Args:
        where: Name of the hook in errors.
        settings: What is given, by name.
        refused: The reason, and what to do instead, by name of the setting.

    Raises:
        ValueError: naming all three.
    """
    for name, (reason, instead) in refused.items():
        if settings.get(name) is not None:
            raise ValueError(f"{where}: {name} is set, but {reason}; expected {instead}")
