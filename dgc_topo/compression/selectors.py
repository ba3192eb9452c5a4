"""Which selector the settings ask for."""

from __future__ import annotations

import torch

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


def selector(
    config: DGCConfig, layout: FlatLayout, device: torch.device, rule: Selection | None = None
) -> Selector:
    """Return what picks the elements to send: *rule* if there is one, else what *config* says."""
    per_layer = config.scope == "layer"
    if rule is None and config.selection == "exact":
        rule = top_k_per_layer if per_layer else top_k_of_all
    if rule is not None:
        return Afterwards(rule, layout)
    groups = Groups.per_layer(layout) if per_layer else Groups.whole(layout)
    return Threshold(groups, device, reuse=config.selection == "reused")
