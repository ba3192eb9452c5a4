"""What a run does is settled once: in which memory messages come, and for which payloads."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgc_topo.payload import DensePayload, SparsePayload
from dgc_topo.runtime.plan import plan_for
from dgc_topo.runtime.script import Complete, Receive, Script, Send, script_for
from dgc_topo.schedule import Schedule
from dgc_topo.topology import load_topology
from tests.runtime.test_in_process import schedules


def script_of(schedule: Schedule, rank: int, length: int, dtype: torch.dtype) -> Script:
    payload = DensePayload(torch.zeros(length), dtype)
    plan = plan_for(schedule, rank)
    payload.cut(plan.num_chunks, agree=plan.agree)
    return script_for(plan.program, payload, lambda size: torch.zeros(size, dtype=torch.uint8))


@settings(max_examples=100)
@given(schedules(), st.integers(0, 60), st.sampled_from([torch.float32, torch.float16]))
def test_messages_under_way_at_once_never_share_memory(
    schedule: Schedule, length: int, dtype: torch.dtype
):
    for rank in range(schedule.world_size):
        script = script_of(schedule, rank, length, dtype)
        posted: set[int] = set()
        for act in (act for stage in script.stages for act in stage.acts):
            if isinstance(act, Receive):
                if (arrival := script.arrivals.get(act.slot)) is not None:
                    arrival.message.fill_(act.slot % 251)
                    posted.add(act.slot)
            elif isinstance(act, Complete):
                for slot in posted & {receive.slot for receive in act.receives}:
                    assert (script.arrivals[slot].message == slot % 251).all()
                posted -= {receive.slot for receive in act.receives}
        assert not posted


@settings(max_examples=100)
@given(schedules(), st.integers(0, 60))
def test_every_message_is_posted_once_and_no_later_than_its_step(schedule: Schedule, length: int):
    for rank in range(schedule.world_size):
        script = script_of(schedule, rank, length, torch.float32)
        posted: set[Receive | Send] = set()
        for stage in script.stages:
            for act in stage.acts:
                if isinstance(act, Complete):
                    assert set(act.receives) | set(act.sends) <= posted
                else:
                    assert act not in posted
                    posted.add(act)
            assert set(stage.receives) | set(stage.sends) <= posted


def test_memory_is_used_again_as_soon_as_it_is_free():
    """A ring of many steps takes the room of the messages of two."""
    ring = load_topology("ring").schedule(8)
    sizes: list[int] = []

    def memory(size: int) -> torch.Tensor:
        sizes.append(size)
        return torch.zeros(size, dtype=torch.uint8)

    payload = DensePayload(torch.zeros(8 * 1600))
    plan = plan_for(ring, 3)
    payload.cut(plan.num_chunks)
    script = script_for(plan.program, payload, memory)
    assert len(script.arrivals) == 7
    assert sizes == [2 * 1600 * 4]


def test_nothing_is_set_aside_for_messages_of_unknown_size():
    payload = SparsePayload(torch.tensor([1]), torch.ones(1), 64)
    plan = plan_for(load_topology("ring").schedule(4), 0)
    payload.cut(plan.num_chunks)
    script = script_for(plan.program, payload, lambda size: torch.zeros(size, dtype=torch.uint8))
    assert script.arrivals == {}
    assert all(receive.staged for stage in script.stages for receive in stage.receives)
