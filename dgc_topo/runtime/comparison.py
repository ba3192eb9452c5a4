"""Comparison of settings that must be the same on every rank, before they are used."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pydantic_core import to_jsonable_python
from torch import Tensor

from dgc_topo import topologies
from dgc_topo.payload import BundlePayload, DensePayload, Payload, SparsePayload, TernaryPayload
from dgc_topo.plugins import is_file
from dgc_topo.runtime.failure import StepPlace, Watch, in_words
from dgc_topo.schedule import Schedule
from dgc_topo.topology import Topology

_MOST_BYTES = 1 << 20  # bytes of a rank's settings as text
_MOST_NAMED = 6  # differences in one error


class RanksDifferError(ValueError):
    """Ranks that should agree do not; the text names them, and what differs."""


def check_equal(
    first: Mapping[str, Any], second: Mapping[str, Any], first_rank: int, second_rank: int
) -> None:
    """Refuse settings of two ranks that differ.

    Raises:
        RanksDifferError: naming ranks, keys and values.
    """
    keys = [key for key in {**first, **second} if first.get(key) != second.get(key)]
    if keys:
        differences = "; ".join(
            f"{key} is {_shown(second, key)} on rank {second_rank}, "
            f"{_shown(first, key)} on rank {first_rank}"
            for key in keys
        )
        raise RanksDifferError(f"ranks differ: {differences}; expected the same on every rank")


def check_all_equal(settings: Mapping[int, Mapping[str, Any]]) -> None:
    """Refuse JSON values of several ranks that differ.

    Keys are compared between those ranks that have them: a server need not know the compressor of
    the others.

    Args:
        settings: Those of each rank, by key.

    Raises:
        RanksDifferError: naming keys, and values with the ranks that have them.
    """
    found = []
    for key in dict.fromkeys(key for each in settings.values() for key in each):
        by_value: dict[str, list[int]] = {}
        for rank, each in settings.items():
            if key in each:
                by_value.setdefault(json.dumps(each[key]), []).append(rank)
        if len(by_value) > 1:
            # What most have comes last, as that to which the others are odd.
            listed = sorted(by_value.items(), key=lambda each: (len(each[1]), -each[1][0]))
            texts = [f"{value} on {in_words(ranks)}" for value, ranks in listed]
            found.append(f"{key} is {', '.join(texts)}")
    if found:
        more = len(found) - _MOST_NAMED
        named = found[:_MOST_NAMED] + ([f"{more} more differences"] if more > 0 else [])
        raise RanksDifferError(f"ranks differ: {'; '.join(named)}; expected the same on every rank")


def settings_of(topology: Topology, world_size: int, seed: int, payload: Payload) -> dict[str, Any]:
    """Return the settings that a run depends on, as JSON values by key."""
    return {
        **topology_settings(topology, world_size, seed),
        "seed": int(seed),
        **_payload_settings("payload", payload),
    }


def topology_settings(topology: Topology, world_size: int, seed: int) -> dict[str, Any]:
    """Return the settings that tell a topology from others, as JSON values by key.

    A topology's file is compared by its content, because its path may differ between machines.  A
    topology from outside this package may depend on other files, too, such as a list of edges;
    its first schedule is therefore compared as well.  (The package's version is compared anyway.)
    """
    options = dict(topology.options)
    found = {
        "topology": topology.name,
        "topology options": to_jsonable_python(options, fallback=str),
    }
    file = _file_of(topology.builder)
    if file is not None and str(file.parent) in topologies.__path__:
        return found
    if is_file(topology.name) and file is not None:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
        found["topology"] = f"a file with SHA-256 {digest}"
    schedule = topology.schedule(world_size, seed=seed)
    return {**found, "topology's schedule": f"one with SHA-256 {_digest_of_schedule(schedule)}"}


def _file_of(builder: Callable[..., object]) -> Path | None:
    """Return the file that a topology's function is written in, if there is one."""
    try:
        file = Path(inspect.getfile(inspect.unwrap(builder)))
    except TypeError:  # no plain function
        return None
    return file if file.is_file() else None


def _digest_of_schedule(schedule: Schedule) -> str:
    digest = hashlib.sha256(f"{schedule.num_chunks} {schedule.goal} {schedule.servers}".encode())
    for step in schedule.steps():
        digest.update(f"{len(step)} {step.denominator}".encode())
        for column in (step.src, step.dst, step.chunk, step.count, step.keep, step.weight):
            digest.update(column.tobytes())
    return digest.hexdigest()[:16]


def compare_ranks(
    group: dist.ProcessGroup | None,
    device: torch.device,
    timeout: timedelta,
    place: StepPlace,
    settings: Mapping[str, Any],
) -> None:
    """Compare the settings of all ranks of a group; each of them calls this.

    Raises:
        RanksDifferError: on every rank, as `check_all_equal`.
        PeerError: if a peer is lost or silent.
    """
    text = json.dumps(settings).encode()
    own = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    watch = Watch(dist.get_rank(group), timeout)

    def gather(values: Tensor) -> list[Tensor]:
        watch.begin(*place)
        return _gather(values.to(device), group, watch)

    size = torch.tensor([len(own)], dtype=torch.int64, device=own.device)
    sizes = [int(each) for each in gather(size)]
    if not all(0 < each <= _MOST_BYTES for each in sizes):
        raise RanksDifferError(f"ranks differ: settings of {sizes} bytes, expected alike ones")
    padded = torch.zeros(max(sizes), dtype=torch.uint8, device=own.device)
    padded[: len(own)] = own
    texts = zip(gather(padded), sizes, strict=True)
    found = (json.loads(each[:end].numpy().tobytes()) for each, end in texts)
    check_all_equal(dict(enumerate(found)))


def _gather(own: Tensor, group: dist.ProcessGroup | None, watch: Watch) -> list[Tensor]:
    """Return the tensor of every rank, in CPU memory, within the watch's time-out."""
    size, rank = dist.get_world_size(group), dist.get_rank(group)
    found = [torch.empty_like(own) for _ in range(size)]
    peers = [peer for peer in range(size) if peer != rank]
    try:
        work = dist.all_gather(found, own, group, async_op=True)
    except RuntimeError as error:
        raise watch.lost_one_of(peers, error) from error
    watch.wait_batch([] if work is None else [work], peers, num_receives=len(peers))
    return [each.cpu() for each in found]


def _shown(settings: Mapping[str, Any], key: str) -> str:
    return json.dumps(settings[key]) if key in settings else "not set"


def _payload_settings(where: str, payload: Payload) -> dict[str, Any]:
    found: dict[str, Any] = {where: type(payload).__name__}
    match payload:
        case DensePayload():
            found[f"{where}'s elements"] = len(payload.buffer)
            found[f"{where}'s wire dtype"] = payload.wire_dtype
        case SparsePayload():
            found[f"{where}'s elements"] = payload.length
            found[f"{where}'s wire dtype"] = payload.coding.wire_dtype
            found[f"{where}'s index encoding"] = payload.coding.index_encoding
            found[f"{where}'s merge"] = payload.merge_policy
        case TernaryPayload():
            found[f"{where}'s elements"] = payload.length
        case BundlePayload():
            for number, part in enumerate(payload.parts):
                found |= _payload_settings(f"{where} part {number}", part)
    return {**found, **payload.made_with}
