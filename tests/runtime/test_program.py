"""Programs: messages leave early where that saves time and never where it costs another's."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgc_topo.payload import DensePayload, SparsePayload
from dgc_topo.runtime import Program
from dgc_topo.runtime.compiler import compile_program
from dgc_topo.runtime.program import Complete, ProgramStep, Receive, Send
from dgc_topo.schedule import Schedule, Step, copy, gather, reduce
from dgc_topo.topology import load_topology
from dgc_topo.wire.coding import WireDtype
from tests.runtime.test_in_process import schedules


def program_of(schedule: Schedule, rank: int, length: int, dtype: WireDtype) -> Program:
    payload = DensePayload(torch.zeros(length), dtype)
    payload.cut(schedule.num_chunks, agree=schedule.goal == "all-reduce")
    return compile_program(
        schedule, rank, payload, lambda size: torch.zeros(size, dtype=torch.uint8)
    )


def compiled(schedule: Schedule, rank: int, length: int = 960) -> Program:
    return program_of(schedule, rank, length, "float32")


def early_sends(program: Program) -> Iterator[tuple[Send, list[int]]]:
    """Yield each send that leaves in the step before its own, and that step's receivers."""
    for step in program.steps:
        for act in step.acts:
            if isinstance(act, Send) and act not in step.sends:
                yield act, [send.peer for send in step.sends]


def posted_in(step: ProgramStep) -> list[Receive]:
    return [act for act in step.acts if isinstance(act, Receive)]


def completed_in(step: ProgramStep) -> list[Complete]:
    return [act for act in step.acts if isinstance(act, Complete)]


def in_short(step: ProgramStep) -> list[str]:
    short = []
    for act in step.acts:
        if isinstance(act, Complete):
            short.append("complete " + ",".join(str(r.transfer.chunk) for r in act.receives))
        elif isinstance(act, Receive):
            short.append(f"receive {act.transfer.chunk}")
        else:
            short.append(f"send {act.chunk}")
    return short


@pytest.mark.parametrize(
    "topology", ["tree", "butterfly", "ring", "mesh", "sharded-parameter-server", "hierarchical"]
)
@pytest.mark.parametrize("world_size", [4, 6, 8])
def test_nobody_sends_to_a_second_peer_before_the_first_has_it(topology: str, world_size: int):
    """Both would take twice as long, and who waits for the first would have waited for nothing."""
    schedule = load_topology(topology).schedule(world_size)
    for rank in range(world_size):
        for early, peers in early_sends(compiled(schedule, rank)):
            assert set(peers) <= {early.peer}


def test_a_ring_of_segments_is_a_pipeline():
    """Every message but the first step's leaves before its step."""
    program = compiled(load_topology("ring", {"segments": 3}).schedule(4), 0)
    early = list(early_sends(program))
    assert len(early) == sum(len(step.sends) for step in program.steps[1:])


def test_who_only_received_passes_it_on_at_once():
    """A leaf's parent in a tree: nothing else is on its way."""
    program = compiled(load_topology("tree").schedule(4), 2)
    assert any(not peers for _, peers in early_sends(program))


def test_who_folds_in_is_heard_before_the_next_peer():
    """Rank 0 of 3 gets all of rank 2's buffer; rank 1, with nothing to do yet, would send along."""
    long = 1_000_000
    fold, *_ = compiled(load_topology("butterfly").schedule(3), 0, long).steps
    assert {receive.peer for receive in posted_in(fold)} == {2}
    first, second, *_ = compiled(load_topology("ring").schedule(4), 0, long).steps
    assert set(second.receives) <= set(posted_in(first))


@pytest.mark.parametrize(("num_entries", "heard"), [(100_000, {2}), (100, {1, 2})])
def test_many_entries_that_fold_in_are_heard_first_as_well(num_entries: int, heard: set[int]):
    """Only the sender knows their bytes; a rank takes its own for a measure."""
    schedule = load_topology("butterfly").schedule(3)
    indices = torch.arange(num_entries, dtype=torch.int64) * 10
    payload = SparsePayload(indices, torch.ones(num_entries), 1_000_000)
    payload.cut(schedule.num_chunks)
    fold, *_ = compile_program(
        schedule, 0, payload, lambda size: torch.zeros(size, dtype=torch.uint8)
    ).steps
    assert {receive.peer for receive in posted_in(fold)} == heard


def steps_of(rank: int, num_chunks: int, *steps: Step) -> tuple[ProgramStep, ...]:
    schedule = Schedule.from_steps(4, num_chunks, steps, goal="part")
    return compiled(schedule, rank, num_chunks).steps


def test_a_message_leaves_when_the_last_thing_it_carries_is_merged():
    """Chunk 1 of the second step waits for nothing, 0 and 2 for their own merges only."""
    first = gather([reduce(1, 0, 0), reduce(1, 0, 2)])
    second = gather([reduce(0, 3, chunk) for chunk in range(3)])
    step, last = steps_of(0, 3, first, second)
    assert in_short(step) == [
        *("receive 0", "receive 2", "send 1"),
        *("complete 0", "send 0", "complete 2", "send 2"),
    ]
    assert in_short(last) == []


def test_overlapping_messages_are_merged_together_whatever_their_order():
    step = gather([reduce(1, 0, 3), reduce(2, 0, 0, 2), reduce(3, 0, 1, 2)])
    (only,) = steps_of(0, 4, step)
    merges = [[receive.peer for receive in act.receives] for act in completed_in(only)]
    assert merges == [[1], [2, 3]]


def test_a_copy_lands_in_place_only_where_it_disturbs_nothing():
    swap = gather([copy(0, 1), copy(1, 0)])
    (only,) = steps_of(0, 1, swap)
    assert not only.receives[0].lands  # its old value is still to be sent
    assert completed_in(only)[0].sends == only.sends
    away, back = steps_of(0, 1, reduce(0, 1), copy(1, 0))
    assert back.receives[0].lands
    assert posted_in(away) == []  # which still sends what it will replace
    before, later = steps_of(0, 2, reduce(0, 1, 1), copy(1, 0, 0))
    assert later.receives[0].lands
    assert posted_in(before) == [*later.receives]


def most_under_way(program: Program) -> int:
    """Return the most receives that are posted and not complete at once."""
    now = most = 0
    for act in (act for step in program.steps for act in step.acts):
        if isinstance(act, Receive):
            now += 1
        elif isinstance(act, Complete):
            now -= len(act.receives)
        most = max(most, now)
    return most


def test_of_a_stream_a_few_receives_are_posted_at_a_time():
    """A stream comes from one rank, and no message of it waits for a send."""
    ring = load_topology("ring", {"segments": 8}).schedule(4)
    mesh = load_topology("mesh").schedule(9)
    assert most_under_way(compiled(ring, 2)) == 3
    assert most_under_way(compiled(mesh, 2)) >= 8


def test_messages_between_two_ranks_have_tags_of_their_own():
    steps = compiled(load_topology("ring", {"segments": 2}).schedule(3), 0).steps
    sent = [send.tag for step in steps for send in step.sends]
    received = [receive.tag for step in steps for receive in step.receives]
    assert sent == received == list(range(0, 16, 2))


@settings(max_examples=100)
@given(schedules(), st.integers(0, 60), st.sampled_from(["float32", "float16"]))
def test_messages_under_way_at_once_never_share_memory(
    schedule: Schedule, length: int, dtype: WireDtype
):
    for rank in range(schedule.world_size):
        program = program_of(schedule, rank, length, dtype)
        posted: set[int] = set()
        for act in (act for step in program.steps for act in step.acts):
            if isinstance(act, Receive):
                if (arrival := program.arrivals.get(act.slot)) is not None:
                    arrival.message.fill_(act.slot % 251)
                    posted.add(act.slot)
            elif isinstance(act, Complete):
                for slot in posted & {receive.slot for receive in act.receives}:
                    assert (program.arrivals[slot].message == slot % 251).all()
                posted -= {receive.slot for receive in act.receives}
        assert not posted


@settings(max_examples=100)
@given(schedules(), st.integers(0, 60))
def test_every_message_is_posted_once_and_no_later_than_its_step(schedule: Schedule, length: int):
    for rank in range(schedule.world_size):
        program = program_of(schedule, rank, length, "float32")
        posted: set[Receive | Send] = set()
        for step in program.steps:
            for act in step.acts:
                if isinstance(act, Complete):
                    assert set(act.receives) | set(act.sends) <= posted
                else:
                    assert act not in posted
                    posted.add(act)
            assert set(step.receives) | set(step.sends) <= posted


def test_memory_is_used_again_as_soon_as_it_is_free():
    """A ring of many steps takes the room of the messages of two."""
    ring = load_topology("ring").schedule(8)
    sizes: list[int] = []

    def memory(size: int) -> torch.Tensor:
        sizes.append(size)
        return torch.zeros(size, dtype=torch.uint8)

    payload = DensePayload(torch.zeros(8 * 1600))
    payload.cut(ring.num_chunks)
    program = compile_program(ring, 3, payload, memory)
    assert len(program.arrivals) == 7
    assert sizes == [2 * 1600 * 4]


def test_nothing_is_set_aside_for_messages_of_unknown_size():
    payload = SparsePayload(torch.tensor([1]), torch.ones(1), 64)
    ring = load_topology("ring").schedule(4)
    payload.cut(ring.num_chunks)
    program = compile_program(ring, 0, payload, lambda size: torch.zeros(size, dtype=torch.uint8))
    assert program.arrivals == {}
    assert all(receive.staged for step in program.steps for receive in step.receives)
