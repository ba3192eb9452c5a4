"""Momentum of an SGD that moves into a compressor, which corrects it for delayed gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from dgc_topo.compression.config import DGCConfig
from dgc_topo.sizes import is_compressed


def common_momentum(where: str, groups: Sequence[Mapping[str, Any]]) -> tuple[float, bool]:
    """Return the momentum of all of an SGD's groups, and True with it if it is Nesterov's.

    Raises:
        ValueError: if groups differ, or one has dampening or climbs.
    """
    found = {(float(group["momentum"]), bool(group["nesterov"])) for group in groups}
    if len(found) > 1:
        momenta = ", ".join(sorted(f"{momentum:g}" for momentum, _ in found))
        raise ValueError(
            f"{where}: parameter groups with momentum {momenta} (or nesterov in only some), "
            "expected one for all: DGC's momentum works on all parameters together"
        )
    for group in groups:
        for setting in ("dampening", "maximize"):
            if group.get(setting):
                raise ValueError(
                    f"{where}: SGD with {setting} = {group[setting]} below density 1, expected "
                    "none: DGC's momentum does not have it"
                )
    return found.pop()


def check_momentum(where: str, optimizer: Optimizer, momentum: tuple[float, bool]) -> None:
    """Refuse a momentum that has changed since the compressor was made.

    Raises:
        ValueError: naming both.
    """
    now = common_momentum(where, optimizer.param_groups)
    if now != momentum:
        raise ValueError(
            f"{where}: momentum is {now[0]} now, expected {momentum[0]} as at first: below density "
            "1 a schedule may change the learning rate alone (such as OneCycleLR with "
            "cycle_momentum=False)"
        )


def place_of_momentum(parameter: Tensor, config: DGCConfig, num_workers: int) -> tuple[str, float]:
    """Return the section of DGC's state in which an SGD's momentum goes on, and its factor there.

    A velocity is a share of the sum over the ranks; what follows the sum is the same on all.
    """
    if not is_compressed(parameter.shape):
        return "momentum", 1.0
    if not config.corrects_momentum:
        return "momentum_after_sum", 1.0
    # DGC's Nesterov velocity is looked ahead already.
    return "velocity", (config.momentum if config.nesterov else 1.0) / num_workers
