"""Which parts of DGC the settings and the device ask for."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from dgc_topo.compression.accumulation import Accumulation
from dgc_topo.compression.config import DGCConfig
from dgc_topo.compression.groups import Groups
from dgc_topo.compression.layout import FlatLayout
from dgc_topo.compression.selection import (
    Afterwards,
    Selection,
    Selector,
    top_k_of_all,
    top_k_per_layer,
)
from dgc_topo.compression.threshold import Threshold


def accumulation_of(layout: FlatLayout, device: torch.device, config: DGCConfig) -> Accumulation:
    """Return velocity and residual, accumulated by a fused kernel where there can be one."""
    if device.type == "cuda" and find_spec("triton") is not None:
        from dgc_topo.compression.fused import FusedAccumulation  # noqa: PLC0415 - needs Triton

        return FusedAccumulation(layout, device, config)
    return Accumulation(layout, device, config)


def groups_of(config: DGCConfig, layout: FlatLayout) -> Groups:
    """Return which elements compete with each other."""
    return Groups.per_layer(layout) if config.scope == "layer" else Groups.whole(layout)


def selector(
    config: DGCConfig, layout: FlatLayout, device: torch.device, rule: Selection | None = None
) -> Selector:
    """Return what picks the elements to send: *rule* if there is one, else what *config* says."""
    per_layer = config.scope == "layer"
    if rule is None and config.selection == "exact":
        rule = top_k_per_layer if per_layer else top_k_of_all
    if rule is not None:
        return Afterwards(rule, layout)
    return Threshold(groups_of(config, layout), device, reuse=config.selection == "reused")
