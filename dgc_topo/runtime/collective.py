"""`all_reduce`: one call that sums a tensor or a payload over any topology."""

from __future__ import annotations

import atexit
from pathlib import Path
from typing import get_args

import torch
import torch.distributed as dist
from torch import Tensor

from dgc_topo.payload import (
    SUM,
    DensePayload,
    Entries,
    Payload,
    PlacedPayload,
    Quotas,
    SparsePayload,
)
from dgc_topo.runtime.communicator import Communicator
from dgc_topo.runtime.sparse_tensors import entries_of, write_entries
from dgc_topo.runtime.traffic import Traffic
from dgc_topo.runtime.transport import DistributedTransport
from dgc_topo.scalars import plain_bool, plain_int
from dgc_topo.schedule.completion import Merge
from dgc_topo.topology import Topology
from dgc_topo.wire.coding import WireCoding, WireDtype
from dgc_topo.wire.tensors import TORCH_DTYPES

_WIRE_DTYPES = {dtype: name for name, dtype in TORCH_DTYPES.items()}
_MOST_COMMUNICATORS = 64  #: communicators that a group keeps


def all_reduce(  # noqa: PLR0913  # each has a name
    value: Tensor | Payload,
    topology: Topology | str | Path,
    group: dist.ProcessGroup | None = None,
    *,
    merge: Merge | None = None,
    k: int | None = None,
    residual: Tensor | None = None,
    balance: bool = False,
    iteration: int = 0,
    seed: int = 0,
    average: bool = False,
) -> Traffic:
    """Sum *value* over all ranks of a group, in place, along a topology; every rank calls this.

    All ranks end with the same bits.  Sums are taken in float32; tensors of 16 bits travel as such.
    The first call with a topology compares it, the seed, the value's size and type, and the policy
    with those of every other rank.  With NCCL in the group, the first call of all is collective.

    Entries of a sparse tensor travel as such, each message in the coding that takes the fewest
    bytes; ranks may have different ones, and different numbers of them.  The tensor is coalesced
    afterwards.

    Args:
        value: A dense or a sparse COO tensor of any shape, coalesced or not, float32, float16 or
            bfloat16, in CPU or GPU memory that the group's backends reach; or a payload.  A
            dedicated server's tensor counts as zeros; its payload has to be empty.
        topology: An all-reduce: a topology, its text form such as ``butterfly:order=far``, or the
            path of its file.
        group: The process group; None is the default one.
        merge: Policy of the sum of entries.  ``union``, the one of sparse tensors, is exact;
            ``reselect`` keeps about the *k* largest, and cuts what it rejects *before* it is sent
            on; ``auto`` does so only where less is sent then.  With a policy a dense tensor
            travels as the entries that are not 0.
        k: Entries of the sum to keep, the same on every rank; for ``reselect`` and ``auto``.
        residual: Dense float32 tensor shaped like *value*, to which rejected entries are added,
            each on one rank: add it to this rank's next value.  For ``reselect`` and ``auto``.
        balance: True to cut an exact sum of entries into chunks of equal numbers of them, which
            takes two passes: the first one finds their places.
        iteration: Number of the training step, for topologies that change.
        seed: For topologies that draw at random; the same on every rank.
        average: True to divide the sum by the number of ranks that contribute; tensors only.

    Returns:
        Bytes, messages and seconds of each step.

    Raises:
        TopologyError: if there is no such topology, or it cannot run with this world size.
        RanksDifferError: in the first call, if ranks differ in what it compares.
        PeerError: if a peer is lost or silent.
        ValueError: if there is no process group, the topology does not all-reduce, the value
            cannot be summed in place, or the policy and what belongs to it do not fit; before
            anything is sent.

    Example:
        >>> import torch, torch.distributed as dist
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> values = torch.ones(3)  # torchrun gives every rank its own
        >>> dt.all_reduce(values, "ring")
        Traffic(0 steps, 0 B sent, 0 B received, ...)
        >>> entries = torch.tensor([0.0, 2.0, 0.0, -1.0]).to_sparse()
        >>> dt.all_reduce(entries, "sharded-parameter-server")
        Traffic(0 steps, 0 B sent, 0 B received, ...)
        >>> entries.indices()
        tensor([[1, 3]])
        >>> dist.destroy_process_group()
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError(
            "all_reduce: no process group, expected torch.distributed.init_process_group to have "
            "been called (torchrun sets the variables that it reads)"
        )
    if not isinstance(topology, Topology):
        topology = Topology.parse(str(topology))
    communicator = _communicator(topology, group, seed)
    schedule = communicator.schedule(iteration)
    if schedule.goal != "all-reduce":
        raise ValueError(
            f"all_reduce: topology {topology.label} is {schedule.goal}, expected an all-reduce: "
            "such as ring, butterfly, tree or mesh; to mix by gossip, run a DensePayload through "
            "dgc_topo.runtime.Communicator"
        )
    if not isinstance(value, Tensor):
        _check_payload(
            value, average=average, has_policy=balance or (merge, k, residual) != (None,) * 3
        )
        return communicator.run(value, iteration)
    _check(value)
    k = _checked_k(value, merge, k, residual)
    _check_balance(value, merge, balance=plain_bool("all_reduce: balance", balance))
    is_server = dist.get_rank(group) in schedule.servers
    divisor = len(schedule.contributors) if plain_bool("all_reduce: average", average) else 1
    made_with = {"k": k, "average": bool(average)}
    if merge is None and value.layout == torch.strided:
        flat = _flat(value)
        payload = DensePayload(flat.zero_() if is_server else flat, _wire_dtype(value), goals=SUM)
        payload.made_with = made_with
        traffic = communicator.run(payload, iteration)
        _write_back(flat.div_(divisor) if average else flat, value)
        return traffic
    entries = _entries(value, merge or "union", k, balance=balance, is_server=is_server)
    entries.made_with = made_with
    traffic = communicator.run(entries, iteration)
    write_entries(Entries(entries.indices, entries.values / divisor), value)
    rejected = entries.take_back()
    if rejected is not None and residual is not None:
        residual.detach().view(-1).index_add_(0, *rejected)
    return traffic


def _wire_dtype(value: Tensor) -> WireDtype:
    return _WIRE_DTYPES[value.dtype]


def _entries(
    value: Tensor, merge: Merge, k: int | None, *, balance: bool, is_server: bool
) -> SparsePayload:
    """Return the payload of a tensor's entries; a server has none."""
    indices, values = entries_of(value)
    if is_server:
        indices, values = indices[:0], values[:0]
    length, coding = value.numel(), WireCoding(wire_dtype=_wire_dtype(value))
    if balance:
        return PlacedPayload(indices, values, length, coding=coding)
    return SparsePayload(
        indices,
        values,
        length,
        coding=coding,
        quotas=None if k is None else Quotas((0, length), (k,), merge),
    )


def _checked_k(value: Tensor, merge: Merge | None, k: int | None, residual: object) -> int | None:
    """Return k; refuse a policy without what it needs, and that without the policy."""
    if merge not in (None, *get_args(Merge)):  # not a set: what is wrong may have no hash
        expected = ", ".join(get_args(Merge))
        raise ValueError(f"all_reduce: merge {merge!r}, expected one of {expected}")
    if merge in {None, "union"}:
        if k is not None or residual is not None:
            raise ValueError(
                f"all_reduce: k or residual with merge {merge!r}, which keeps all entries; "
                "expected them with 'reselect' or 'auto' only"
            )
        return None
    found = 0 if k is None else plain_int("all_reduce: k", k)
    if found < 1:
        raise ValueError(
            f"all_reduce: k {k} with merge {merge!r}, expected the number of entries of the sum to "
            "keep, at least 1"
        )
    if not isinstance(residual, Tensor):
        given = "no residual" if residual is None else f"residual {residual!r}"
        raise ValueError(  # noqa: TRY004  # a wrong argument is a wrong value, as everywhere
            f"all_reduce: {given} with merge {merge!r}, expected a tensor of zeros shaped like "
            "the value at first, which takes what is rejected"
        )
    _check_residual(value, residual)
    return found


def _check_residual(value: Tensor, residual: Tensor) -> None:
    """Refuse a residual that entries of the value cannot be added to."""
    fits = residual.layout == torch.strided and residual.is_contiguous()
    fits = fits and residual.dtype == torch.float32 and residual.device == value.device
    if not fits or residual.shape != value.shape:
        raise ValueError(
            f"all_reduce: residual of {residual.dtype}, shape {tuple(residual.shape)} and layout "
            f"{residual.layout} on {residual.device}, expected a contiguous float32 tensor of "
            f"shape {tuple(value.shape)} on {value.device}"
        )
    if _meet(value if value.layout == torch.strided else value._values(), residual):  # noqa: SLF001
        raise ValueError("all_reduce: residual in the memory of the value, expected one of its own")


def _meet(one: Tensor, other: Tensor) -> bool:
    """Return True if two dense tensors are views of the same memory."""
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr() != 0


def _check_balance(value: Tensor, merge: Merge | None, *, balance: bool) -> None:
    """Refuse balance where no exact sum of entries is cut."""
    if balance and (merge not in {None, "union"} or (merge is None and not value.is_sparse)):
        raise ValueError(
            f"all_reduce: balance with merge {merge!r} of a tensor of layout {value.layout}, "
            "expected it with a sparse tensor, or merge 'union'; re-selected chunks keep equal "
            "numbers of entries anyway"
        )


def _check_payload(value: Payload, *, average: bool, has_policy: bool) -> None:
    """Refuse what is no payload either, the average of one, and a policy beside its own."""
    if not hasattr(value, "goals"):
        raise ValueError(
            f"all_reduce: {type(value).__name__}, expected a tensor, or a payload such as what "
            "DGC.compress returns"
        )
    if average:
        raise ValueError("all_reduce: average of a payload, expected a tensor, or no average")
    if has_policy:
        raise ValueError(
            "all_reduce: merge, k, residual or balance with a payload, which has its own, "
            "expected a tensor"
        )


def _check(value: Tensor) -> None:
    """Refuse a tensor that cannot be summed in place, as float32."""
    layouts = torch.strided, torch.sparse_coo
    if value.layout not in layouts or value.dtype not in _WIRE_DTYPES:
        raise ValueError(
            f"all_reduce: tensor of {value.dtype} and layout {value.layout}, expected a dense or a "
            "sparse COO one of float32, float16 or bfloat16 (or a payload, such as SparsePayload)"
        )
    if value.layout == torch.strided and _shares_memory(value):
        raise ValueError(
            "all_reduce: an expanded or unfolded tensor, whose elements share memory, expected one "
            "that can be written in place (clone it first)"
        )


def _shares_memory(value: Tensor) -> bool:
    """Return True unless each dimension steps over all that those of smaller strides reach."""
    reach = 0
    for stride, size in sorted(zip(value.stride(), value.shape, strict=True)):
        if size > 1:
            if stride <= reach:
                return True
            reach += stride * (size - 1)
    return False


def _flat(value: Tensor) -> Tensor:
    """Return the elements as 1-D contiguous float32, in the tensor's own memory if possible."""
    return value.detach().resolve_neg().reshape(-1).to(torch.float32).contiguous()


def _write_back(flat: Tensor, value: Tensor) -> None:
    """Copy the result back into *value*, unless it is there already."""
    if flat.data_ptr() != value.data_ptr():
        value.detach().copy_(flat.view(value.shape))


#: Transport of each living group, and its communicators in order of use.
_GROUPS: dict[
    dist.ProcessGroup,
    tuple[DistributedTransport, dict[tuple[Topology, int], Communicator]],
] = {}
# Before torch shuts down: groups that outlive it may abort the process.
atexit.register(_GROUPS.clear)


def _communicator(topology: Topology, group: dist.ProcessGroup | None, seed: int) -> Communicator:
    """Return the communicator of a group for this topology, made at the first call."""
    own = dist.group.WORLD if group is None else group
    assert own is not None  # the default group has been made
    if own not in _GROUPS:
        for other in [other for other in _GROUPS if not _is_alive(other)]:
            del _GROUPS[other]
        _GROUPS[own] = DistributedTransport(group), {}
    transport, communicators = _GROUPS[own]
    key = topology, seed
    if key not in communicators:
        if len(communicators) == _MOST_COMMUNICATORS:
            del communicators[next(iter(communicators))]
        communicators[key] = Communicator(topology, transport, seed)
    return communicators[key]


def _is_alive(group: dist.ProcessGroup) -> bool:
    """Return True unless a group has been destroyed."""
    try:
        dist.get_rank(group)
    except (ValueError, RuntimeError):
        return False
    return True
