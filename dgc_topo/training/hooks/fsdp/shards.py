"""Parts of an FSDP2 model: the shard of each module's gradient that a rank holds.

FSDP2 gives an all-reduce hook one flat buffer per module, the shards of its parameters laid end to
end, each padded to the same size on every rank.  Names and shapes make layers of it again, so that
each layer is compressed by itself and biases travel dense.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule


@dataclass(frozen=True, slots=True)
class ShardedPart:
    """Parameters of one FSDP module that travel together.

    Attributes:
        module: The FSDP module.
        name: Its name in the model; empty for the model itself.
        group: FSDP's own record of the parameters.
        names: Name of each parameter in the model, in the order of the buffer.
    """

    module: Any
    name: str
    group: Any
    names: tuple[str, ...]

    @property
    def shard_group(self) -> dist.ProcessGroup | None:
        """Process group over which the parameters are sharded."""
        found: dist.ProcessGroup | None = getattr(self.group.mesh_info, "shard_process_group", None)
        return found

    @property
    def is_replicated(self) -> bool:
        """True if FSDP itself averages over replicas, as with a mesh of two dimensions."""
        return getattr(self.group.mesh_info, "replicate_mesh_dim", None) is not None

    @property
    def is_held(self) -> bool:
        """True if more gradients of the same step follow, by what the script has told FSDP."""
        is_last = self.module._get_fsdp_state()._state_ctx.is_last_backward  # noqa: SLF001
        return not (self.group.all_reduce_grads and is_last)

    @property
    def divides(self) -> bool:
        """True if gradients are averaged, False if the script has set a divisor of its own."""
        return self.group.gradient_divide_factor is None

    def shapes(self, *, only_trainable: bool = True) -> dict[str, torch.Size]:
        """Return the shape of each trainable parameter's padded shard, by name."""
        return {
            name: each.padded_sharded_param_size
            for name, each in zip(self.names, self.group.fsdp_params, strict=True)
            if each.sharded_param.requires_grad or not only_trainable
        }

    def memory(self, names: Sequence[str], device: torch.device) -> dict[str, Tensor]:
        """Return padded shards, in the parameters' own memory where that is possible."""
        found: dict[str, Tensor] = {}
        for name, each in zip(self.names, self.group.fsdp_params, strict=True):
            if name in names:
                data = each._sharded_param_data  # noqa: SLF001  # padded, unlike the parameter
                here = data if data.device == device else torch.empty_like(data, device=device)
                found[name] = here.view(each.padded_sharded_param_size)
        return found

    def parameters(self) -> list[nn.Parameter]:
        """Return the sharded parameters."""
        return [each.sharded_param for each in self.group.fsdp_params]

    def local_gradients(self) -> Iterator[Tensor]:
        """Yield this rank's shard of each gradient that is there."""
        for parameter in self.parameters():
            if parameter.grad is not None:
                yield local_of(parameter.grad)


def parts_of(where: str, model: nn.Module) -> list[ShardedPart]:
    """Return the parts of a model, in the order of its modules.

    Args:
        where: Name of the caller in errors.
        model: Model to which ``fully_shard`` has been applied.

    Raises:
        ValueError: if there are none, torch is too old, or FSDP already averages over replicas.
    """
    if not hasattr(FSDPModule, "set_all_reduce_hook"):
        raise ValueError(
            f"{where}: torch {torch.__version__} has no FSDPModule.set_all_reduce_hook, expected a "
            "newer one (2.11 and 2.13 have it)"
        )
    if not isinstance(model, nn.Module):
        raise ValueError(f"{where}: model is {type(model).__name__}, expected a module")  # noqa: TRY004
    names = {id(module): name for name, module in model.named_modules()}
    groups = {  # modules that were sharded as one have one record
        id(group): (module, group)
        for module in model.modules()
        if isinstance(module, FSDPModule)
        for group in _groups_of(module)
    }
    found = [
        ShardedPart(module, names[id(module)], group, _names(group, names))
        for module, group in groups.values()
    ]
    if not found:
        raise ValueError(
            f"{where}: no parameter of the model is sharded, expected fully_shard(...) before"
        )
    for part in found:
        if part.is_replicated:
            raise ValueError(
                f"{where}: FSDP averages {part.name or 'the model'} over replicas by itself (a "
                "mesh of two dimensions), expected fully_shard(..., mesh=mesh['shard']): the "
                "inner dimension only"
            )
    if len({id(part.shard_group) for part in found}) > 1:
        raise ValueError(f"{where}: modules sharded over several meshes, expected one for all")
    return found


def local_of(tensor: Tensor) -> Tensor:
    """Return this rank's part of a tensor that may be distributed."""
    local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    assert isinstance(local, Tensor)
    return local


def _groups_of(module: Any) -> list[Any]:
    """Return FSDP's records of a module's parameters: several since torch 2.12, one before."""
    state = module._get_fsdp_state()  # noqa: SLF001  # nothing public says which parameters
    several = getattr(state, "_fsdp_param_groups", None)
    if several is not None:
        return list(several)
    return [] if state._fsdp_param_group is None else [state._fsdp_param_group]  # noqa: SLF001


def _names(group: Any, modules: dict[int, str]) -> tuple[str, ...]:
    places = (each._module_info for each in group.fsdp_params)  # noqa: SLF001
    return tuple(f"{modules[id(at.module)]}.{at.param_name}".lstrip(".") for at in places)
