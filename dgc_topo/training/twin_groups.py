"""Twins of process groups: the same ranks and backends, on connections of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d


def twin_of(group: dist.ProcessGroup | None, timeout: timedelta) -> dist.ProcessGroup:
    """Return a new group of the same ranks and backends; all of them call it, and nobody else."""
    own = dist.group.WORLD if group is None else group
    assert own is not None
    ranks, backend = dist.get_process_group_ranks(own), dist.get_backend_config(own)
    if len(ranks) == dist.get_world_size():
        twin = dist.new_group(timeout=timeout, backend=backend)
    else:
        with _as_many_groups_on_all(own):
            twin = dist.new_group(
                ranks, timeout=timeout, backend=backend, use_local_synchronization=True
            )
    assert isinstance(twin, dist.ProcessGroup)
    return twin


@contextmanager
def _as_many_groups_on_all(group: dist.ProcessGroup) -> Iterator[None]:
    """Make all ranks of a group know equally many groups.

    The name of a new group among some of the ranks contains how many groups a rank knows.  Where
    some ranks are in more groups than others, they would wait for each other under two names.
    """
    known = distributed_c10d._world.pg_names  # noqa: SLF001
    on_cpu = "cpu" in dist.get_backend_config(group)
    count = torch.tensor([len(known)], device="cpu" if on_cpu else "cuda")
    dist.all_reduce(count, dist.ReduceOp.MAX, group=group)
    strangers = [object() for _ in range(len(known), int(count))]
    known.update(dict.fromkeys(strangers, "a place kept"))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for each in strangers:
            del known[each]  # type: ignore[arg-type]
