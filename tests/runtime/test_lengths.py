"""Lengths that peers tell: believed only if they can be, and before memory is taken."""

from collections.abc import Callable
from datetime import timedelta
from fractions import Fraction
from functools import partial

import pytest
import torch
import torch.distributed as dist
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from dgc_topo.payload import (
    Arrival,
    BundlePayload,
    DensePayload,
    Payload,
    SparsePayload,
    Ternary,
    TernaryPayload,
    WireError,
)
from dgc_topo.runtime import Communicator, DistributedTransport
from dgc_topo.runtime.batched import BatchedChannel
from dgc_topo.runtime.failure import Watch
from dgc_topo.runtime.framing import announced_bytes, check_arrived, write_head
from dgc_topo.runtime.staging import Staging
from dgc_topo.schedule import Schedule, Transfer, reduce
from dgc_topo.topology import Topology
from dgc_topo.wire.coding import COARSE_DTYPES, INDEX_CHOICES, WIRE_DTYPES, WireCoding
from tests.runtime.cluster import Cluster

EAGER_BYTES = 64
messages = st.binary(max_size=40).map(
    lambda text: torch.frombuffer(bytearray(text + b"."), dtype=torch.uint8)[:-1]
)


def framed(message: Tensor) -> Tensor:
    frame = torch.empty(8 + message.numel(), dtype=torch.uint8)
    write_head(frame[:8], message)
    frame[8:] = message
    return frame


@given(messages, st.integers(0, 100))
def test_a_message_is_as_long_as_its_head_says_and_no_longer(message: Tensor, more: int):
    frame = framed(message)
    size = message.numel()
    assert announced_bytes(frame, 1, None) == announced_bytes(frame, 1, size + more) == size
    check_arrived(frame, 1, message)
    if size:
        with pytest.raises(WireError, match=f"rank 1 announces {size} bytes, expected 0 to"):
            announced_bytes(frame, 1, size - 1)


@given(messages.filter(len), st.binary(min_size=8, max_size=8), st.integers(0, 7))
@example(torch.zeros(56, dtype=torch.uint8), bytes(8), 0)
def test_bytes_that_the_sender_did_not_send_are_not_its_message(
    message: Tensor, stale: bytes, missing: int
):
    """Fewer arrive than the head says; behind them is what was there before."""
    frame = framed(message)
    arrived = frame.clone()
    size = message.numel()
    kept = max(size - missing - 1, 0)
    arrived[8 + kept :] = torch.tensor(list((stale * 8)[: size - kept]), dtype=torch.uint8)
    if arrived.equal(frame):
        return
    with pytest.raises(WireError, match="not its own"):
        check_arrived(arrived, 1, arrived[8:])


@pytest.mark.parametrize("word", [0, 57, 3 << 30, 1 << 62, -1, 1 << 40])
def test_a_bare_number_is_no_head(word: int):
    head = torch.tensor([word]).view(torch.uint8)
    with pytest.raises(WireError, match="expected its length and the mark"):
        announced_bytes(head, 1, None)


def lie(group: dist.ProcessGroup, frames: list[Tensor], most_bytes: int) -> list[str]:
    """Rank 1 sends frames as they are; return what rank 0 says to each."""
    if dist.get_rank(group) == 1:
        for number, frame in enumerate(frames):
            group.send([frame], 0, 2 * number).wait()
        return []
    watch = Watch(0, timedelta(seconds=5))
    staging = Staging(group, torch.device("cpu"), watch, EAGER_BYTES)
    said = []
    for number in range(len(frames)):
        head = staging.receive(1, 2 * number, None, most_bytes)
        head.work.wait()
        try:
            whole = staging.receive_rest(head, 2 * number)
            said.append(str(staging.message(whole, sized=False).tolist()))
        except WireError as error:
            said.append(str(error))
    return said


def test_a_peer_that_announces_more_than_it_sent_is_refused_by_name(cluster: Cluster):
    message = torch.arange(40, dtype=torch.uint8)
    right, long = framed(message), framed(torch.zeros(1000, dtype=torch.uint8))
    huge = right.clone()
    huge[4] = 0xFF  # of the length's five bytes
    said = cluster.run(2, lie, [right, right[:-1], long[:EAGER_BYTES], huge, right[:4]], 500)[0]
    assert said[0] == str(message.tolist())
    assert "rank 1 announces 40 bytes, expected as many as it sent" in said[1]
    assert "rank 1 announces 1000 bytes, expected 0 to 500" in said[2]
    assert "expected 0 to 500" in said[3]
    assert "rank 1" in said[4]  # half a head, behind which another message's is left


def lie_in_a_batch(group: dist.ProcessGroup, size: int) -> str:
    """Rank 1 announces a size; return what rank 0 says."""
    if dist.get_rank(group) == 1:
        dist.send(torch.tensor([size]), group=group, group_dst=0)
        return ""
    transport = DistributedTransport(group)
    channel = BatchedChannel(group, timedelta(seconds=5))
    transport._new_channel = lambda device: channel  # type: ignore[method-assign]
    one = Topology("one", lambda world_size: Schedule.from_steps(2, 1, [reduce(1, 0)]))
    try:
        Communicator(one, transport, compare=False).run(sparse(3))
    except WireError as error:
        return str(error)
    return "fine"


@pytest.mark.parametrize("size", [100_000, -1, 1 << 62])
def test_where_sizes_travel_first_they_are_checked_too(cluster: Cluster, size: int):
    said = cluster.run(2, lie_in_a_batch, size)[0]
    most = sparse(3)
    most.cut(1)
    expected = most.most_bytes(0, 1, world_size=2)
    assert said == f"wire: rank 1 announces {size} bytes, expected 0 to {expected}"


LENGTH = 30
SUM = Transfer(1, 0, 0, 2, keep=Fraction(1), weight=Fraction(1))


def ternary() -> Payload:
    codes = torch.arange(LENGTH, dtype=torch.uint8) % 3
    given = {rank: Ternary(torch.ones(2), codes.clone()) for rank in range(3)}
    return TernaryPayload(given, [0, 12, LENGTH], torch.device("cpu"))


def sparse(count: int, **settings) -> Payload:
    entries = torch.arange(LENGTH)[:: LENGTH // count][:count].contiguous()
    return SparsePayload(entries, torch.ones(count), LENGTH, **settings)


KINDS: dict[str, Callable[[], Payload]] = {
    "dense": lambda: DensePayload(torch.ones(LENGTH)),
    "ternary": ternary,
    "bundle": lambda: BundlePayload([DensePayload(torch.ones(7)), sparse(4), ternary()]),
    **{
        f"sparse {choice} {dtype}": partial(sparse, LENGTH, coding=WireCoding(choice, dtype))
        for choice in INDEX_CHOICES
        for dtype in WIRE_DTYPES[:2]
    },
    **{
        f"sparse {choice} {dtype}": partial(sparse, LENGTH, coding=WireCoding(choice, dtype))
        for choice in ("auto", "rice", "run-length")
        for dtype in COARSE_DTYPES
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_message_is_longer_than_its_payload_says(kind: str):
    for num_chunks in (1, 2, 7, LENGTH, LENGTH + 5):
        payload = KINDS[kind]()
        payload.cut(num_chunks)
        for chunk in range(num_chunks):
            for count in range(1, num_chunks - chunk + 1, 3):
                most = payload.most_bytes(chunk, count, world_size=3)
                assert payload.pack(chunk, count).numel() <= most < 16 * LENGTH + 300


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_that_are_no_message_are_refused_and_nothing_else_happens(kind: str):
    """Whatever a peer sends is an error of ours or a message, never another exception."""
    randoms = torch.Generator().manual_seed(7)
    genuine = prepared(kind).pack(0, 2).clone()
    for _ in range(60):
        payload = prepared(kind)
        forged = forge(genuine, randoms)
        try:
            payload.merge([Arrival(SUM, forged)], 0)
        except ValueError:
            continue
        payload.finish()
        payload.pack(0, 3)


def prepared(kind: str) -> Payload:
    payload = KINDS[kind]()
    payload.cut(3)
    return payload


def forge(message: Tensor, randoms: torch.Generator) -> Tensor:
    """Return the message with bytes overwritten, cut off, or added."""

    def draw(most: int) -> int:
        return int(torch.randint(most + 1, (1,), generator=randoms))

    forged = message.clone()
    for _ in range(draw(3)):
        forged[draw(len(forged) - 1)] = draw(255)
    kept = forged[: len(forged) - draw(9) * draw(1)]
    more = torch.randint(256, (draw(9) * draw(1),), generator=randoms, dtype=torch.uint8)
    return torch.cat([kept, more])
