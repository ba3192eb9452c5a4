"""A rank's share of the state that another number of ranks has saved, in loops of one's own."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from dgc_topo.compression.resharding import is_shared_out, state_for
from dgc_topo.training.averaging.base import mean_of
from dgc_topo.training.checkpoints.errors import CheckpointError
from dgc_topo.training.checkpoints.plain import checksum
from dgc_topo.training.optimizer.facade import Facade
from dgc_topo.workers.seat import Seat


def mixed_parameters(objects: Iterable[Any]) -> set[int]:
    """Return which parameters are trained by optimizers that keep ranks together themselves."""
    facades = [each for each in objects if isinstance(each, Facade)]
    return {id(p) for each in facades for group in each.param_groups for p in group["params"]}


def share_of(
    name: str, value: Any, states: Sequence[Any], seat: Seat, mixed: Container[int]
) -> Any:
    """Return this rank's state of an object, out of those of another number of ranks.

    Where each rank had a `torch.Generator` of its own, a rank that was there goes on with it, and
    a new one with its generator as it is.

    Args:
        name: Of the object.
        value: The object.
        states: Those of all former ranks, in their order.
        seat: This rank's, among the ranks now.
        mixed: Parameters, by their identity, whose values may differ between ranks.

    Raises:
        CheckpointError: if former ranks had different states, which ranks now cannot share.
    """
    own = states[seat.rank % len(states)]
    if hasattr(value, "state_for"):
        return value.state_for(states, seat.rank, seat.world_size)
    if is_shared_out(own):
        return state_for(states, seat.rank, seat.world_size)
    compared = list(states)
    if isinstance(value, nn.Module):  # running statistics may differ
        names = dict(value.named_parameters(remove_duplicate=False))
        compared = [{key: state[key] for key in state if key in names} for state in states]
    if len({checksum(each) for each in compared}) == 1:
        return own
    if isinstance(value, torch.Generator):
        return own if seat.rank < len(states) else value.get_state()
    if isinstance(value, nn.Module) and any(id(p) in mixed for p in value.parameters()):
        return {**own, **mean_of(compared)}
    raise CheckpointError(
        f"{name}: differs between the {len(states)} ranks of the checkpoint, so that "
        f"{seat.world_size} ranks cannot share it; expected as many ranks as before, or a "
        "checkpoint that these have saved without it"
    )
