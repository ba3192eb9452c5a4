"""Times of workers that share a machine, and communicate with nobody."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgc_topo.training.solo import LoneStep, mean_phases, slowest_phases

STEP = st.builds(LoneStep, *3 * [st.floats(0, 1)])


def test_each_steps_slowest_worker_counts_whichever_it_is():
    first = [LoneStep(1.0, 5.0, 0.5), LoneStep(1.0, 2.0, 0.5), LoneStep(1.0, 2.0, 0.5)]
    second = [LoneStep(1.0, 2.0, 0.5), LoneStep(1.0, 5.0, 0.5), LoneStep(2.0, 4.0, 0.25)]
    phases = slowest_phases([first, second])
    assert (phases.compute_s, phases.compress_s, phases.update_s) == (1.0, 5.0, 0.5)
    assert phases.communicate_s == phases.wait_s == 0


def test_steps_without_an_exchange_count_as_often_as_they_happen():
    steps = [LoneStep(1.0, 8.0, 0.0), LoneStep(1.0, 2.0, 0.0)] * 2
    assert mean_phases([steps], every=4).compress_s == pytest.approx((8 + 3 * 2) / 4)


def test_workers_that_seldom_meet_count_alike():
    fast, slow = [LoneStep(1.0, 2.0, 0.5)] * 4, [LoneStep(3.0, 4.0, 0.5)] * 4
    phases = mean_phases([fast, slow], every=10)
    assert (phases.compute_s, phases.compress_s, phases.update_s) == (2.0, 3.0, 0.5)


@given(st.lists(STEP, min_size=1, max_size=4))
def test_with_one_step_no_worker_takes_longer(workers):
    phases = slowest_phases([[step] for step in workers])
    slowest_s = phases.compute_s + phases.compress_s + phases.update_s
    assert slowest_s == max(map(sum, workers))
