"""Workloads from torch modules: each layer's parameters, and when its gradients are ready."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

from dgc_topo.simulation.workload import Workload, ready_layer
from dgc_topo.sizes import count_elements
from dgc_topo.zoo.model import FORWARD_SHARE

_META = torch.device("meta")


def layers_of(module: nn.Module, compute_s: float, example: Any = None) -> Workload:
    """Return the workload of a module, with a layer for each part that has parameters of its own.

    A third of the time is the forward pass.  The backward pass visits the layers in reverse order
    of use, and each takes a share in proportion to the arithmetic of its forward pass.  A parameter
    that several parts share belongs to the first of them, where its gradient is complete.

    Args:
        module: Module with parameters to train, on any device.
        compute_s: Seconds of both passes.
        example: Input of the module, see `load_workload`; without it, time is shared by parameters.

    Raises:
        ValueError: if no parameter is trained, one has no shape yet, or the module cannot run
            *example* on the meta device.
    """
    shapes = _shapes(module)
    if not shapes:
        raise ValueError(f"module {type(module).__name__}: expected parameters to train")
    name = type(module).__name__
    if example is None:
        order, source = list(shapes), "ready times by numbers of parameters, an approximation"
        work = {part: float(sum(count_elements(shapes[part]))) for part in shapes}
    else:
        order, work = _arithmetic(module, example)
        order = [part for part in order if part in shapes]
        unused = [part for part in shapes if part not in order]  # ready at the end
        order, source = [*unused, *order], "ready times by the layers' arithmetic"
    backward_s = (1 - FORWARD_SHARE) * compute_s
    total = sum(work.get(part, 0.0) for part in order) or 1.0
    done = list(accumulate(work.get(part, 0.0) / total for part in reversed(order)))
    done[-1] = 1.0  # exactly, without a rounding error
    layers = tuple(
        ready_layer(part or name, min(share, 1.0) * backward_s, shapes[part])
        for part, share in zip(reversed(order), done, strict=True)
    )
    return Workload(
        FORWARD_SHARE * compute_s,
        layers,
        name=name,
        source=f"module {name}; compute given; {source}",
        batch_size=_batch_size(example),
    )


def _shapes(module: nn.Module) -> dict[str, list[torch.Size]]:
    """Return the shapes of the trained parameters of each part, shared ones once."""
    shapes: dict[str, list[torch.Size]] = {}
    for full_name, parameter in module.named_parameters():  # each once
        if is_lazy(parameter):
            raise ValueError(
                f"module {type(module).__name__}: parameter {full_name!r} has no shape yet, "
                "expected one: run the model on a batch first (lazy modules)"
            )
        if parameter.requires_grad:
            shapes.setdefault(full_name.rpartition(".")[0], []).append(parameter.shape)
    return shapes


def _arithmetic(module: nn.Module, example: Any) -> tuple[list[str], dict[str, float]]:
    """Return the parts in the order of their first use, with the operations of each part itself."""
    order: list[str] = []
    hooks = [
        part.register_forward_pre_hook(lambda _, __, part_name=part_name: order.append(part_name))
        for part_name, part in module.named_modules()
    ]
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    on_meta = {key: torch.empty_like(value, device=_META) for key, value in state.items()}
    arguments = tree_map(_on_meta, example)
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter:
            if isinstance(arguments, Mapping):
                torch.func.functional_call(module, on_meta, (), dict(arguments))
            else:
                torch.func.functional_call(module, on_meta, arguments)
    except Exception as error:
        raise ValueError(
            f"module {type(module).__name__}: cannot run the example on the meta device: {error}; "
            "expected shapes that do not depend on values, or no example"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return list(dict.fromkeys(order)), _own_operations(module, counter)


def _own_operations(module: nn.Module, counter: FlopCounterMode) -> dict[str, float]:
    """Return the operations of each part without those of the parts inside it."""
    root = type(module).__name__
    counted = {
        name.removeprefix(root).removeprefix("."): float(sum(operations.values()))
        for name, operations in counter.get_flop_counts().items()
        if name != "Global"
    }
    own = dict(counted)
    for name, operations in counted.items():
        if name:
            parent = name.rpartition(".")[0]
            while parent and parent not in counted:
                parent = parent.rpartition(".")[0]
            own[parent] = own.get(parent, 0.0) - operations
    return {name: max(operations, 0.0) for name, operations in own.items()}


def _on_meta(leaf: Any) -> Any:
    return torch.empty_like(leaf, device=_META) if isinstance(leaf, Tensor) else leaf


def _batch_size(example: Any) -> int:
    """Return the first dimension of the first tensor of an example; 1 without any."""
    values = example.values() if isinstance(example, Mapping) else example
    first = example if isinstance(example, Tensor) else next(iter(values or ()), None)
    return int(first.shape[0]) if isinstance(first, Tensor) and first.ndim else 1
