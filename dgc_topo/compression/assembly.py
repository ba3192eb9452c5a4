"""Assembly of DGC from its parts, as settings and device require.

The parts for GPUs are imported only where Triton's kernels can run.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dgc_topo.compression.accumulation import Accumulation
from dgc_topo.compression.config import DGCConfig
from dgc_topo.compression.layout import FlatLayout, Groups
from dgc_topo.compression.local_step import LocalStep
from dgc_topo.compression.selection import (
    RuleSelector,
    Selection,
    Selector,
    top_k_of_all,
    top_k_per_layer,
)
from dgc_topo.compression.threshold import Threshold
from dgc_topo.wire.tensors import has_kernels


def accumulation_of(
    layout: FlatLayout, device: torch.device, config: DGCConfig, num_workers: int = 1
) -> Accumulation:
    """Return velocity and residual; a fused kernel accumulates them where kernels can run."""
    if has_kernels(device):
        from dgc_topo.compression.gpu.accumulation import FusedAccumulation  # noqa: PLC0415

        return FusedAccumulation(layout, device, config, num_workers=num_workers)
    return Accumulation(layout, device, config, num_workers=num_workers)


def groups_of(config: DGCConfig, layout: FlatLayout) -> Groups:
    """Return the groups of elements within which the largest are selected."""
    return Groups.per_layer(layout) if config.scope == "layer" else Groups.whole(layout)


def selector(
    config: DGCConfig, accumulation: Accumulation, rule: Selection | None = None
) -> Selector:
    """Return the selector of the elements to send: *rule* if given, else the one of *config*.

    Args:
        config: Settings, which name the rule and the groups.
        accumulation: Holds the residual to select from.
        rule: The caller's own rule, or None.
    """
    layout, device = accumulation.layout, accumulation.residual.device
    if rule is not None:
        return RuleSelector(rule, layout)
    if config.selection != "exact" and has_kernels(device):
        from dgc_topo.compression.gpu.accumulation import FusedAccumulation  # noqa: PLC0415
        from dgc_topo.compression.gpu.threshold import FusedThreshold  # noqa: PLC0415

        if isinstance(accumulation, FusedAccumulation):
            groups, reuse = groups_of(config, layout), config.selection == "reused"
            return FusedThreshold(groups, accumulation.blocks, reuse=reuse)
    return plain_selector(config, layout, device)


def plain_selector(config: DGCConfig, layout: FlatLayout, device: torch.device) -> Selector:
    """Return the selector that *config* names, for any flat buffer of such a layout."""
    if config.selection == "exact":
        return RuleSelector(top_k_per_layer if config.scope == "layer" else top_k_of_all, layout)
    reuse = config.selection == "reused"
    return Threshold(groups_of(config, layout), device, reuse=reuse)


def step_of(
    where: str,
    parameters: Mapping[str, Tensor],
    layout: FlatLayout,
    config: DGCConfig,
    rule: Selection | None = None,
    *,
    num_workers: int = 1,
) -> LocalStep:
    """Return a step over all *parameters*, of which those in *layout* are compressed.

    Args:
        where: Name of the compressor in errors.
        parameters: Parameters by name, all on one device.
        layout: Places of the compressed parameters in the flat buffer.
        config: Settings.
        rule: The caller's own selection rule, or None.
        num_workers: Number of ranks whose contributions are summed.
    """
    device = next(iter(parameters.values())).device
    accumulation = accumulation_of(layout, device, config, num_workers)
    picks = selector(config, accumulation, rule)
    if not has_kernels(device):
        return LocalStep(where, accumulation, picks, None, config.coding)
    from dgc_topo.compression.gpu.accumulation import (  # noqa: PLC0415
        FusedAccumulation,
        FusedNorm,
    )
    from dgc_topo.compression.gpu.fused_step import FusedStep  # noqa: PLC0415
    from dgc_topo.compression.gpu.threshold import FusedThreshold  # noqa: PLC0415

    norm = FusedNorm(parameters, device)
    if (
        isinstance(accumulation, FusedAccumulation)
        and isinstance(picks, FusedThreshold)
        and config.accumulation
        and not config.coding.is_coarse
        and layout.length
    ):
        return FusedStep(where, accumulation, picks, norm, config.coding)
    return LocalStep(where, accumulation, picks, norm, config.coding)
