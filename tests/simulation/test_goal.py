"""Writing GOAL."""

import io
import re

import numpy as np
import pytest

from dgc_topo.schedule import Schedule, copy, gather, reduce
from dgc_topo.simulation import DenseSizes, write_goal
from dgc_topo.simulation.step_sizes import StepSizes
from dgc_topo.topology import load_topology


def goal_of(schedule, num_bytes):
    file = io.StringIO()
    write_goal(schedule, DenseSizes(num_bytes, schedule.num_chunks), file)
    return file.getvalue()


def test_goal_text():
    steps = [gather([reduce(0, 1), reduce(2, 1)]), copy(1, 0)]
    text = goal_of(Schedule.from_steps(3, 1, steps, goal="part"), 10.5)
    assert text == (
        "num_ranks 3\n"
        "\nrank 0 {\nl1: send 11b to 1 tag 0\nl2: recv 11b from 1 tag 1\nl2 requires l1\n}\n"
        "\nrank 1 {\nl1: recv 11b from 0 tag 0\nl2: recv 11b from 2 tag 0\n"
        "l3: send 11b to 0 tag 1\nl3 requires l1\nl3 requires l2\n}\n"
        "\nrank 2 {\nl1: send 11b to 1 tag 0\n}\n"
    )


def test_goal_adds_up_after_receiving_and_before_the_next_step():
    steps = [gather([reduce(0, 1), reduce(2, 1)]), copy(1, 0)]
    schedule = Schedule.from_steps(3, 1, steps, goal="part")
    file = io.StringIO()
    write_goal(schedule, DenseSizes(10, 1), file, reduce_s_per_byte=1e-9)
    assert (
        "rank 1 {\nl1: recv 10b from 0 tag 0\nl2: recv 10b from 2 tag 0\n"
        "l3: calc 20\nl3 requires l1\nl3 requires l2\n"
        "l4: send 10b to 0 tag 1\nl4 requires l3\n}"
    ) in file.getvalue()
    assert file.getvalue().count("calc") == 1  # copies and sends add nothing up
    with pytest.raises(ValueError, match="reduce_s_per_byte -1"):
        write_goal(schedule, DenseSizes(10, 1), file, reduce_s_per_byte=-1)


def sends_of(text):
    """Return, per rank, where it sends, in the order of the text."""
    blocks = re.findall(r"rank \d+ \{\n(.*?)\}", text, re.S)
    return [[int(rank) for rank in re.findall(r"send \d+b to (\d+)", block)] for block in blocks]


@pytest.mark.parametrize("name", ["mesh", "gossip", "parameter-server", "butterfly"])
def test_goal_ranks_send_to_the_next_rank_first(name):
    """A reader with one serial NIC per rank would make all wait for rank 0 otherwise."""
    schedule = load_topology(name, {}).schedule(8)
    for step in schedule.steps():
        one = Schedule.from_steps(8, schedule.num_chunks, [step], goal="part")
        sends = sends_of(goal_of(one, 8e6))
        for rank, peers in enumerate(sends):
            forward = [(peer - rank) % 8 for peer in peers]
            assert forward == sorted(forward)
        if name == "mesh":
            assert all(len(set(peers)) == 8 for peers in zip(*sends, strict=True))


def test_goal_leaves_out_empty_messages_and_ranks_without_any_compute_for_no_time():
    assert goal_of(load_topology("ring", {}).schedule(2), 0) == (
        "num_ranks 2\n\nrank 0 {\nl1: calc 0\n}\n\nrank 1 {\nl1: calc 0\n}\n"
    )
    assert goal_of(load_topology("ring", {}).schedule(1), 1e6) == (
        "num_ranks 1\n\nrank 0 {\nl1: calc 0\n}\n"
    )

    class SecondStepEmpty:
        def of_step(self, step_index, step):
            return StepSizes(np.full(len(step), 0.0 if step_index == 1 else 0.5))

    file = io.StringIO()
    steps = [copy(0, 1), copy(1, 2), copy(1, 0)]
    write_goal(Schedule.from_steps(3, 1, steps, goal="part"), SecondStepEmpty(), file)
    assert file.getvalue() == (
        "num_ranks 3\n"
        "\nrank 0 {\nl1: send 1b to 1 tag 0\nl2: recv 1b from 1 tag 2\nl2 requires l1\n}\n"
        "\nrank 1 {\nl1: recv 1b from 0 tag 0\nl2: send 1b to 0 tag 2\nl2 requires l1\n}\n"
        "\nrank 2 {\nl1: calc 0\n}\n"
    )


def test_goal_refuses_what_its_readers_cannot_hold():
    schedule = Schedule.from_steps(2, 1, [reduce(0, 1)], goal="part")
    assert f"send {2**63}b" in goal_of(schedule, 2.0**63)
    with pytest.raises(
        ValueError, match=r"goal: step 0: rank 0 -> rank 1.*: 1.84467e\+19 bytes, ex"
    ):
        goal_of(schedule, 2.0**64)
    file = io.StringIO()
    with pytest.raises(ValueError, match=r"goal: step 0: rank 1: 1e\+21 ns, expected less than 2"):
        write_goal(schedule, DenseSizes(1e12, 1), file, reduce_s_per_byte=1.0)
    assert file.getvalue() == ""


@pytest.mark.parametrize("name", ["ring", "butterfly", "tree", "mesh", "gossip"])
def test_goal_sends_and_receives_match(name):
    schedule = load_topology(name, {}).schedule(7)
    text = goal_of(schedule, 1000)
    sends, receives = [], []
    for rank, block in enumerate(re.findall(r"rank \d+ \{\n(.*?)\}", text, re.S)):
        for size, peer, tag in re.findall(r"send (\d+)b to (\d+) tag (\d+)", block):
            sends.append((rank, int(peer), tag, size))
        for size, peer, tag in re.findall(r"recv (\d+)b from (\d+) tag (\d+)", block):
            receives.append((int(peer), rank, tag, size))
    assert sorted(sends) == sorted(receives)
    assert len(sends) == sum(len(step) for step in schedule.steps())
