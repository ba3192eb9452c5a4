"""When a rank's messages may leave: early where that saves time, never where it costs another's."""

from itertools import pairwise

import pytest

from dgc_topo.runtime.plan import plan_for
from dgc_topo.topology import load_topology


def program_of(topology: str, world_size: int, rank: int, **options):
    return plan_for(load_topology(topology, options).schedule(world_size), rank).program


def early_sends(program):
    """Yield each send that may leave in the step before its own, and that step's sends."""
    for now, after in pairwise(program):
        places = [*now.releases, *(place for merge in now.merges for place in merge.releases)]
        for place in places:
            yield after.sends[place].transfer, [message.transfer for message in now.sends]


@pytest.mark.parametrize(
    "topology", ["tree", "butterfly", "ring", "mesh", "sharded-parameter-server", "hierarchical"]
)
@pytest.mark.parametrize("world_size", [4, 6, 8])
def test_nobody_sends_to_a_second_peer_before_the_first_has_it(topology, world_size):
    """Both would take twice as long, and who waits for the first would have waited for nothing."""
    for rank in range(world_size):
        for early, before in early_sends(program_of(topology, world_size, rank)):
            assert {transfer.dst for transfer in before} <= {early.dst}


def test_a_ring_of_segments_is_a_pipeline():
    """Every message but the first step's may leave before its step."""
    program = program_of("ring", 4, 0, segments=3)
    early = list(early_sends(program))
    assert len(early) == sum(len(step.sends) for step in program[1:])


def test_who_only_received_may_pass_it_on_at_once():
    """A leaf's parent in a tree: nothing else is on its way."""
    program = program_of("tree", 4, 2)
    assert any(not before for _, before in early_sends(program))


def test_who_folds_in_is_heard_before_the_next_peer():
    """Rank 0 of 3 gets all of rank 2's buffer; rank 1, with nothing to do yet, would send along."""
    fold, exchange, *_ = program_of("butterfly", 3, 0)
    assert [message.transfer.src for merge in fold.merges for message in merge.receives] == [2]
    assert all(merge.competes for merge in exchange.merges)
    ring = program_of("ring", 4, 0)
    assert not any(merge.competes for step in ring for merge in step.merges)
