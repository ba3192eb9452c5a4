"""A hook for FSDP2: parameters are sharded inside a machine, DGC runs between machines.

FSDP2 sums each module's gradient over the ranks of a machine, and each rank keeps a shard of it.
The hook then averages that shard over the *replicas*: the ranks that hold the same shard on other
machines.  A hybrid of sharding and replication (HSDP) does the same without compression.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from pydantic_core import to_jsonable_python
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from dgc_topo.topology import Topology
from dgc_topo.training.hooks.fsdp.hook_state import FSDPHookState
from dgc_topo.training.hooks.fsdp.shards import local_of, parts_of
from dgc_topo.training.hooks.scaling import Scaler, check_scaler
from dgc_topo.training.hooks.settings import hook_config, refuse
from dgc_topo.training.own_group import DEFAULT_TIMEOUT, OwnGroup


def compress_fsdp(  # noqa: PLR0913  # the call is all that a script has to say
    model: nn.Module,
    replicas: DeviceMesh | dist.ProcessGroup,
    topology: Topology | str = "ring",
    density: float | str = "0.1%",
    *,
    momentum: float = 0.0,
    warm_up_steps: int = 0,
    scaler: Scaler | None = None,
    seed: int = 0,
    timeout: timedelta = DEFAULT_TIMEOUT,
    **settings: Any,
) -> FSDPHookState:
    """Average an FSDP2 model's gradients over replicas, compressed; every rank calls this once.

    Call it after ``fully_shard``, which gets the *inner* dimension of the mesh only.  Each layer's
    shard is compressed by itself; biases and norms travel dense.  Parameters that have memory are
    made equal: those of the first replica go to all.  Only gradients that FSDP reduces are
    compressed, once per step: not the ones that ``set_requires_gradient_sync(False)`` keeps.

    If a gradient is not finite on one rank, the step is skipped on all: without *scaler* no
    parameter has a gradient after the backward pass, so that no optimizer moves it; with one, all
    have NaN, so that it skips the step and lowers the scale.  What was sent is given back.

    Args:
        model: Model to whose modules ``fully_shard`` was applied.
        replicas: Mesh of one dimension, or process group, of the ranks that hold the same shard.
        topology: An all-reduce in which every rank contributes.
        density: Fraction of each layer's elements that is sent; 1 sends all, as HSDP does.
        momentum: Momentum correction, for SGD *without* momentum of its own; 0 for all others.
        warm_up_steps: Steps over which density falls, in the paper's stages; 0 for none.
        scaler: Scaler of the loss, if there is one: residuals must not depend on the scale.
        seed: For topologies that draw at random; the same on every rank.
        timeout: Longest time that a step may wait for another rank.
        settings: Others of `DGCConfig`; not those that need the whole gradient or the parameters.

    Returns:
        The state, to be saved with the model: ``state_dict`` and ``load_state_dict``.

    Raises:
        ValueError: if the model is not sharded, FSDP already averages over replicas, *replicas*
            holds ranks of one shard group, the topology is not such an all-reduce, or a setting is
            unknown or has no place here; nothing has changed then.
        RanksDifferError: on every rank, if replicas differ in settings; likewise.

    Example:
        >>> import torch, torch.distributed as dist
        >>> from torch.distributed.device_mesh import init_device_mesh
        >>> from torch.distributed.fsdp import fully_shard
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> mesh = init_device_mesh("cpu", (1, 1), mesh_dim_names=("replicate", "shard"))
        >>> model = fully_shard(torch.nn.Linear(8, 2), mesh=mesh["shard"])
        >>> dt.compress_fsdp(model, mesh["replicate"], "ring", density="5%")
        FSDPHookState(1 part, 2 parameters, 1 replica, ring, density=0.05)
        >>> dist.destroy_process_group()
    """
    where = "compress_fsdp"
    parts = parts_of(where, model)
    refuse(where, settings, _REFUSED)
    config = hook_config(where, density, momentum=momentum, warm_up_steps=warm_up_steps, **settings)
    check_scaler(where, scaler)
    group = _group_of(where, replicas)
    _check_apart(where, group, parts[0].shard_group)
    own = OwnGroup(where, topology, group, seed=seed, timeout=timeout, sums_all=True)
    own.compare(to_jsonable_python(asdict(config)))
    locals_ = (local_of(parameter) for part in parts for parameter in part.parameters())
    own.make_equal(each for each in locals_ if not each.is_meta)
    state = FSDPHookState(model, parts, own, config, scaler)
    state.register()
    return state


#: Settings that need more than a shard of the gradient: the reason, and what to do instead.
_REFUSED = {
    "weight_decay": ("only gradients are averaged", "the optimizer's weight_decay"),
    "weight_decay_mode": ("only gradients are averaged", "the optimizer's weight_decay"),
    "track_ages": ("shards have no ages", "a call without it"),
    "clear_velocities": ("velocities of shards stay", "a call without it"),
    "clear_every_steps": ("velocities of shards stay", "a call without it"),
}


def _group_of(where: str, replicas: DeviceMesh | dist.ProcessGroup) -> dist.ProcessGroup:
    if isinstance(replicas, dist.ProcessGroup):
        return replicas
    if replicas.ndim != 1:
        found = f"a mesh of {replicas.ndim} dimensions"
        raise ValueError(
            f"{where}: replicas are {found}, expected a process group or a mesh of one dimension "
            "such as mesh['replicate']"
        )
    return replicas.get_group()


def _check_apart(where: str, group: dist.ProcessGroup, shards: dist.ProcessGroup | None) -> None:
    """Refuse replicas among which are ranks that hold different shards."""
    if shards is None:
        return
    common = set(dist.get_process_group_ranks(group)) & set(dist.get_process_group_ranks(shards))
    if common != {dist.get_rank()}:
        raise ValueError(
            f"{where}: ranks {sorted(common)} are replicas and shards of each other, expected the "
            "dimension of the mesh over which the model is not sharded"
        )
