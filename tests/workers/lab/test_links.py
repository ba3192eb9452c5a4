"""Links have the rate they are said to have, count what goes over them, and can be changed."""

import threading
import time
from dataclasses import replace
from statistics import median

import numpy as np
import pytest

from dgc_topo.workers import LaunchError, Session, run_on
from dgc_topo.workers.lab import CounterError, Lab, LabChange, LabSpec, check_sent
from dgc_topo.workers.lab.spec import FRAME_BYTES, batch_frames
from tests.workers.lab.conftest import RATE_BITS_PER_S

pytestmark = pytest.mark.alone

FRAMING = 1448 / 1514  # of what a shaped link lets through, TCP's payload
PAYLOAD_BITS_PER_S = FRAMING * RATE_BITS_PER_S
NUM_BYTES = 2_500_000


def goodput(
    workers: Session,
    pairs: list[tuple[int, int]],
    num_bytes: int = NUM_BYTES,
    world_size: int = 2,
    at_least: float = 0.0,
) -> float:
    """Return bit/s of each of several simultaneous streams (the median of some repetitions).

    A machine that is busy slows a link down, and nothing speeds it up: a rate below `at_least`
    is measured again, a few times.
    """
    argument = {"pairs": pairs, "num_bytes": num_bytes, "repeat": 4}
    best = 0.0
    for attempt in range(6):
        time.sleep(attempt)
        seconds = workers.call("tests.workers.lab.jobs:stream", argument, world_size=world_size)
        slowest = [max(each) for each in zip(*seconds, strict=True)]
        best = max(best, 8 * num_bytes / median(slowest[1:]))  # the first one opens the window
        if best > at_least:
            break
    return best


def test_a_stream_gets_the_rate_less_framing(workers: Session):
    rate = goodput(workers, [(0, 1)], at_least=0.90 * PAYLOAD_BITS_PER_S)
    assert 0.90 < rate / PAYLOAD_BITS_PER_S < 1.01


def test_both_directions_at_once_get_nearly_as_much_each(workers: Session):
    """Acknowledgements take 2 % of the other direction."""
    rate = goodput(workers, [(0, 1), (1, 0)], at_least=0.85 * PAYLOAD_BITS_PER_S)
    assert 0.85 < rate / PAYLOAD_BITS_PER_S < 1.0


def test_senders_to_one_host_share_its_link(workers: Session):
    expected = PAYLOAD_BITS_PER_S / 3
    pairs = [(1, 0), (2, 0), (3, 0)]
    rate = goodput(workers, pairs, NUM_BYTES // 2, world_size=4, at_least=0.80 * expected)
    assert 0.80 < rate / expected < 1.01


def test_both_directions_get_as_much_each_whatever_was_lost_before(workers: Session):
    """Acknowledgements do not wait behind data, nor do connections start anew after a pause.

    Else a direction whose window was cut would crawl for as long as the other one has data.
    """
    goodput(workers, [(1, 0), (2, 0), (3, 0)], world_size=4)  # overflows the switch's queue
    time.sleep(0.5)
    pairs = [(0, 1), (1, 0)]
    rate = goodput(workers, pairs, NUM_BYTES // 2, at_least=0.90 * PAYLOAD_BITS_PER_S)
    assert 0.90 < rate / PAYLOAD_BITS_PER_S < 1.0


def test_all_that_a_host_sends_to_take_turns(workers: Session):
    """Else who is ready a little later than others waits for their whole windows, from everybody.

    One packet does not wait until 80 others, to another host, have left.
    """
    queue_s = 80 * 8 * 1442 / RATE_BITS_PER_S
    assert min(overtaking_s(workers, packets=80, below_s=0.4 * queue_s)) < 0.4 * queue_s


def overtaking_s(workers: Session, packets: int, below_s: float) -> list[float]:
    """Return medians of the time that one packet takes beside others, until one is *below_s*."""
    argument = {"packets": packets, "port": 40_123}
    medians: list[float] = []
    while len(medians) < 4 and not (medians and medians[-1] < below_s):
        taken_s = []
        for _ in range(5):
            sent_s, _, arrived_s = workers.call(
                "tests.workers.lab.jobs:overtake", argument, world_size=3
            )
            taken_s.append(arrived_s - sent_s)
        medians.append(median(taken_s))
    return medians


def test_a_host_hands_few_frames_over_at_a_time(lab: Lab, workers: Session):
    """Else short messages would leave it faster than its link is, and queue at the switch."""
    before = lab.counters()
    goodput(workers, [(0, 1)])
    sent = lab.counters()[0] - before[0]
    assert sent.tx_bytes > NUM_BYTES
    assert sent.tx_packets > sent.tx_bytes / (1.1 * batch_frames(RATE_BITS_PER_S) * FRAME_BYTES)


def test_a_slow_host_is_slow_both_ways_and_the_others_are_not(lab: Lab, workers: Session):
    slow = 20e6
    lab.set_rate(1, slow)
    try:
        for pair in ((0, 1), (1, 0)):
            expected = FRAMING * slow
            rate = goodput(workers, [pair], NUM_BYTES // 5, 3, at_least=0.85 * expected)
            assert 0.85 < rate / expected < 1.02
        rate = goodput(workers, [(0, 2)], world_size=3, at_least=3 * slow)
        assert rate > 3 * slow
        lab.set_rate(1, None)
        lab.set_rate(0, None)
        unlimited = goodput(workers, [(0, 1)], at_least=3 * RATE_BITS_PER_S)
        assert unlimited > 3 * RATE_BITS_PER_S
    finally:
        lab.reset()
    assert goodput(workers, [(0, 1)]) < RATE_BITS_PER_S


@pytest.mark.parametrize("topology", ["ring", "parameter-server", "butterfly"])
def test_interfaces_count_what_the_executor_says_it_sent(lab: Lab, workers: Session, topology: str):
    before = lab.counters()
    argument = {"topology": topology, "repeat": 3, "elements": 250_000}
    said = workers.call("tests.workers.lab.jobs:all_reduce", argument)
    counted = [now - earlier for now, earlier in zip(lab.counters(), before, strict=True)]
    for host, (count, traffic) in enumerate(zip(counted, said, strict=True)):
        messages = 2 * sum(each["messages"] for each in said)
        excess = check_sent(count, traffic["sent"], messages, f"host {host}")
        assert excess >= 0
        with pytest.raises(CounterError, match=f"host {host}: the interface carried"):
            check_sent(count, count.carried_bytes + 1, messages, f"host {host}")
        with pytest.raises(CounterError, match="expected"):
            check_sent(replace(count, tx_resent=0), 0.8 * traffic["sent"], 0, f"host {host}")
    assert all(traffic["controls"] == [lab.spec.congestion_control] for traffic in said)


def test_the_kernels_other_congestion_control_is_used_if_asked_for():
    other = "reno" if LabSpec(num_hosts=2).congestion_control != "reno" else "cubic"
    with Lab(LabSpec(num_hosts=2, rate_bits_per_s=1e9, congestion_control=other)) as lab:
        argument = {"topology": "ring", "repeat": 1, "elements": 1000}
        said = run_on(lab, "tests.workers.lab.jobs:all_reduce", argument, world_size=2)
    assert [each["controls"] for each in said] == [[other], [other]]


def test_no_more_waits_in_the_kernel_than_leaves_soon():
    """The kernel is left to itself if asked for."""
    rate = 100e6
    with (
        Lab(LabSpec(num_hosts=2, rate_bits_per_s=rate)) as lab,
        Session(lab, 2) as session,
    ):
        # Without a limit first: one would stay with the connections, which all calls share.
        said = [
            session.call("tests.workers.lab.jobs:unsent_limits", {"longest_wait_s": longest_wait_s})
            for longest_wait_s in (None, 0.02, 0.005)
        ]
    assert said[0] == [[], []]
    for longest_wait_s, found in zip((0.02, 0.005), said[1:], strict=True):
        for limits in found:
            assert len(limits) == 1  # not the connection to the rendezvous
            assert limits[0] == pytest.approx(rate / 8 * longest_wait_s, rel=0.5)


def test_a_cut_host_is_named_by_its_peers():
    """Timed, too: the plan starts when all ranks are ready."""
    cut = LabChange(at_s=0.5, host=2, action="cut")
    argument = {"topology": "mesh", "repeat": 1000, "elements": 100_000, "timeout_s": 2.0}
    with Lab(LabSpec(num_hosts=3, rate_bits_per_s=100e6, changes=(cut,))) as lab:
        said = run_on(lab, "tests.workers.lab.jobs:all_reduce", argument, world_size=3)
    for rank in range(2):
        assert f"rank {rank}: topology mesh, step " in said[rank]["says"]
        # The other one, if not the cut host: it timed out first, and that closes its connections.
        assert 2 in said[rank]["peers"] or said[rank]["peers"] == [1 - rank]
    first = [rank for rank in range(2) if 2 in said[rank]["peers"]]
    assert first
    assert all("rank 2" in said[rank]["says"] for rank in first)
    assert set(said[2]["peers"]) <= {0, 1}


def test_a_restored_link_carries_on(lab: Lab, workers: Session):
    """TCP repeats what was lost, so a short cut costs time only."""

    argument = {"topology": "ring", "repeat": 10, "elements": 100_000}
    said = workers.call("tests.workers.lab.jobs:all_reduce", argument)
    cut, restore = threading.Timer(0.1, lab.cut, [1]), threading.Timer(0.4, lab.restore, [1])
    cut.start()
    restore.start()
    again = workers.call("tests.workers.lab.jobs:all_reduce", argument)
    cut.join()
    restore.join()
    assert [each["sent"] for each in said] == [each["sent"] for each in again]


@pytest.mark.parametrize("rates", [(100e6, 90e6), (400e6, 90e6)])
def test_no_packet_waits_forever_when_a_busy_link_slows_down(
    lab: Lab, workers: Session, rates: tuple[float, float]
):
    """A shaper never lets a packet pass that is larger than its bucket, and a slower link's is.

    The kernel checks that for packets that come, not for those that wait when the rate changes.
    """
    pairs = [(0, 1), (1, 0), (2, 0), (0, 2)]
    argument = {"pairs": pairs, "num_bytes": NUM_BYTES // 6, "repeat": 2}
    fast, slow = rates
    try:
        for delay_s in np.linspace(0.02, 0.12, 10):
            lab.set_rate(0, fast)
            slowing = threading.Timer(delay_s, lab.set_rate, [0, slow])
            slowing.start()
            workers.call("tests.workers.lab.jobs:stream", argument, world_size=3)
            slowing.join()
    finally:
        lab.reset()


def test_a_failing_worker_on_a_host_is_named(lab: Lab):
    with pytest.raises(LaunchError, match=r"worker of rank 1 was killed by SIGKILL"):
        run_on(lab, "tests.workers.jobs:vanish", 1, world_size=2)


def test_more_ranks_than_hosts_are_refused(lab: Lab):
    with pytest.raises(ValueError, match="world_size 5 on lab 100 Mbit/s: expected 1 to 4"):
        run_on(lab, "tests.workers.jobs:vanish", world_size=5)
    with pytest.raises(ValueError, match=r"host 4, expected a number from 0 to 3"):
        lab.cut(4)


def test_ranks_may_share_hosts():
    with Lab(LabSpec(num_hosts=2, ranks_per_host=2)) as lab:
        before = lab.counters()
        answers = run_on(lab, "tests.workers.jobs:sum_ranks", {"plus": 0}, world_size=4)
        assert [answer[:2] for answer in answers] == [[rank, 6] for rank in range(4)]
        assert all((now - b).tx_packets for now, b in zip(lab.counters(), before, strict=True))
