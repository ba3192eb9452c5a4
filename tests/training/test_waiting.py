"""Waits for other ranks: one that lasts is told of, with who is elsewhere."""

import gc
import time

import pytest

from dgc_topo.liveness import Liveness, Position, current, make_current
from dgc_topo.training.waiting import Waits


class Informed(Liveness):
    """Hears of three others."""

    def positions(self):
        return {
            1: Position(4, "computing"),
            2: Position(5, "averaging for the hook"),
            3: Position(5, "saving a checkpoint"),
        }


@pytest.fixture
def informed():
    before = current()
    make_current(Informed())
    yield
    make_current(before)


def test_a_wait_that_lasts_names_who_is_elsewhere_and_in_which_step(informed, caplog):
    waits = Waits("hook", 0, patience_s=0.03)
    with waits.one(5):
        while len(caplog.records) < 2:
            time.sleep(0.01)
    first, second = (record.getMessage() for record in caplog.records[:2])
    assert first.startswith("hook: rank 0 waits in training step 5 for ")
    assert "rank 1 is in training step 4, while computing" in first
    assert "rank 2" not in first
    assert "rank 3 is in training step 5, while saving a checkpoint" in first
    assert second.partition(" s; ")[2] == first.partition(" s; ")[2]


def test_a_wait_outside_of_steps_names_all_who_do_something_else(informed, caplog):
    waits = Waits("saving", 0, patience_s=0.03)
    with waits.one(None):
        while not caplog.records:
            time.sleep(0.01)
    text = caplog.records[0].getMessage()
    assert text.startswith("saving: rank 0 waits for ")
    assert "rank 2 is in training step 5, while averaging for the hook" in text
    assert "rank 3" not in text


def test_a_short_wait_and_no_wait_are_not_told_of(informed, caplog):
    waits = Waits("hook", 0, patience_s=60)
    with waits.one(5):
        waits.tell_if_long()
    waits.tell_if_long()
    assert caplog.text == ""


def test_the_thread_ends_with_its_owner():
    waits = Waits("hook", 0, patience_s=0.03)
    with waits.one(None):
        pass
    thread = waits._thread
    assert thread is not None
    del waits
    gc.collect()
    thread.join(30)
    assert not thread.is_alive()
