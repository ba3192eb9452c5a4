"""The communication hook of DistributedDataParallel."""

# DDP compares the annotations below with classes: they must not become text.
import torch
from torch._C._distributed_c10d import GradBucket

from dgc_topo.training.hooks.ddp.hook_state import HookState


def hook(state: HookState, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
    """Average a bucket of DDP's gradients over a topology, compressed by DGC.

    To be registered, not to be called: ``model.register_comm_hook(dt.HookState(model, "butterfly"),
    dt.hook)``.  Buckets travel while the backward pass goes on.

    Args:
        state: Topology, settings, and what has not been sent so far.
        bucket: Gradients of some parameters of the model given to *state*.

    Returns:
        The future of the average, in the bucket's own memory.

    Raises:
        HookError: if an earlier bucket failed.

    Example:
        >>> import torch, torch.distributed as dist
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(100, 10))
        >>> model.register_comm_hook(dt.HookState(model, "ring", density=0.01), dt.hook)
        >>> model(torch.ones(2, 100)).sum().backward()
        >>> int(model.module.weight.grad.count_nonzero())  # 1 % of 1000
        10
        >>> del model
        >>> dist.destroy_process_group()
    """
    return state.reduce(bucket)
