"""Several periods in a row: each rank goes on at its own pace, and some take no part."""

from typing import Any

import numpy as np
import pytest

import dgc_topo as dt
from dgc_topo.averaging import Attendance
from dgc_topo.network import Fabric
from dgc_topo.simulation.training import ReadyLayer, Workload

FAST = Fabric("fast", 1e30, 0.0, "messages take no time")
WIRE = Fabric("wire", 1e6, 0.0, "1 MB/s")
MB = 250_000  # elements whose float32 take 1 MB
WORK = Workload(0.5, (ReadyLayer("all", 1.5, (MB,), 0),), update_s=0.25)


class Table:
    """Factors of compute times: those of a table, step by step."""

    def __init__(self, *rows):
        self._rows = iter(rows)
        self._made = {}

    def draw(self, generator, count):
        key = tuple(generator.bit_generator.state["state"].values())
        if key not in self._made:
            self._made[key] = np.array(next(self._rows), float)
        assert len(self._made[key]) == count
        return self._made[key].copy()


ROWS = [[1, 1, 3, 1, 1], [1, 1, 1, 1, 4], [2, 1, 1, 1, 1], [1, 1, 1, 2, 1]]


def test_gossip_waits_for_neighbours_only_and_ranks_drift():
    """By hand: a rank of a ring goes on when it and both its neighbours have computed."""
    step = dt.simulate_step(
        WORK, "gossip:graph=ring", FAST, world_size=5, averaging="d-psgd", jitter=Table(*ROWS),
        num_steps=4,
    )  # fmt: skip
    now = np.zeros(5)
    for row, run in zip(ROWS, step.runs, strict=True):
        ready = now + 2.0 * np.array(row)
        now = np.array([max(ready[i - 1], ready[i], ready[(i + 1) % 5]) for i in range(5)])
        now += 0.25 * np.array(row)  # its own move comes last
        assert run.end_s == pytest.approx(now)
    assert step.step_time_s == pytest.approx(now.max() / 4)
    assert sum(step.phases) == pytest.approx(step.step_time_s)
    together = sum(2.25 * max(row) for row in ROWS) / 4
    assert step.step_time_s < together - 0.3


def test_rules_that_move_first_update_before_they_send():
    for rule, topology, first in (
        ("d-psgd", "gossip", False),
        ("dgc-gossip", "gossip", False),
        ("choco", "gossip", True),
        ("push-sum", "gossip:graph=random-push", True),
        ("no-loco:every=3", "gossip", True),
        ("local-sgd:every=3", "ring", True),
        ("gradients", "ring", False),
    ):
        found = dt.simulate_step(WORK, topology, WIRE, world_size=4, averaging=rule)
        assert found.step.moves_first is first, rule
        assert bool(found.runs[0].update_s.max()) is not first


@pytest.mark.parametrize("engine", ["bulk", "events"])
def test_a_rank_that_is_left_out_waits_for_nobody(engine):
    """By hand: those who take part meet, the others go on computing."""
    rows = [[1, 1, 3, 1], [1, 4, 1, 1], [2, 1, 1, 1], [1, 1, 1, 2]]
    step = dt.simulate_step(
        WORK, "gossip:graph=complete", FAST, world_size=4, jitter=Table(*rows), num_steps=4,
        averaging="d-psgd:participation=0.5", engine=engine, seed=3,
    )  # fmt: skip
    who, now = Attendance(4, 0.5, seed=3), np.zeros(4)
    for number, (row, run) in enumerate(zip(rows, step.runs, strict=True)):
        here = who.of(number)
        assert len(here) == 2
        now = now + 2.0 * np.array(row)
        now[here] = now[here].max()
        now = now + 0.25 * np.array(row)
        assert run.end_s == pytest.approx(now)
        assert len(run.workers) == 4
        assert (run.traffic.bytes_sent > 0).sum() == 2
    assert sum(step.phases) == pytest.approx(step.step_time_s)


def test_who_comes_back_gets_what_the_others_hold_alike():
    """Two vectors of DiLoCo, an anchor and a momentum, before the exchange."""
    rule = "diloco:every=2,participation=0.6"
    step = dt.simulate_step(WORK, "ring", WIRE, world_size=5, averaging=rule, num_steps=5)
    who = Attendance(5, 0.6, "all-reduce")
    came_back = [len(who.behind(number)) for number in range(5)]
    assert sum(came_back)
    ring_bytes = 2 * 2 / 3 * 1e6
    for number, run in enumerate(step.runs):
        givers = who.givers(number).tolist()
        for rank in range(5):
            expected = ring_bytes * (rank in who.of(number)) + 2e6 * givers.count(rank)
            assert run.traffic.bytes_sent[rank] == pytest.approx(expected)
    assert sum(step.phases) == pytest.approx(step.step_time_s)


def test_a_named_rank_is_left_out_and_gets_what_it_missed_when_it_is_back():
    rule = "diloco:every=2,left_out=3@1-2"
    step = dt.simulate_step(WORK, "ring", WIRE, world_size=4, averaging=rule)
    sent = [run.traffic.bytes_sent.tolist() for run in step.runs]
    assert len(sent) == 8
    whole, without, back = 2 * 3 / 4 * 1e6, 2 * 2 / 3 * 1e6, 2e6
    assert sent[0] == sent[4] == pytest.approx([whole] * 4)
    assert sent[1] == sent[2] == pytest.approx([without] * 3 + [0])
    assert sent[3] == pytest.approx([whole + back, whole, whole, whole])


def test_leaving_ranks_out_pays_where_computing_times_vary_much():
    found = []
    for share in (1.0, 0.5):
        rule = f"d-psgd:every=5,participation={share}"
        settings: dict[str, Any] = {"averaging": rule, "jitter": 0.7, "num_steps": 24}
        found.append(dt.simulate_step("resnet50", "gossip", "10gbe", world_size=8, **settings))
    whole, half = found
    assert half.utilisation > whole.utilisation


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"averaging": "diloco", "every": 3}, "the rule says both, expected neither"),
        ({"averaging": "d-psgd"}, "d-psgd over ring"),
        ({"averaging": "gradients:participation=0.7"}, "all ranks share the parameters"),
        ({"averaging": "local-sgd:left_out=4@1"}, "left_out: rank 4 of 4, expected 0 to 3"),
        ({"averaging": "diloco:participation=0.7"}, r"over parameter-server.*only serve"),
    ],
)
def test_what_a_rule_cannot_do_is_not_predicted(settings, says):
    serves = "only serve" in says
    topology = "parameter-server:server=dedicated" if serves else "ring"
    with pytest.raises(ValueError, match=says):
        dt.simulate_step(WORK, topology, WIRE, world_size=4, **settings)
