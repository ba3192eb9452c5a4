"""Long simulations say how far they are."""

import numpy as np
import pytest

from dgc_topo.network import star
from dgc_topo.simulation import simulate_schedule, watching
from dgc_topo.topology import load_topology


@pytest.mark.parametrize("engine", ["bulk", "events"])
def test_a_listener_hears_of_steps_until_all_are_begun(engine, monkeypatch):
    monkeypatch.setattr(watching, "_FIRST_S", 0.0)
    monkeypatch.setattr(watching, "_EVERY_S", 0.0)
    heard = []
    schedule = load_topology("butterfly", {}).schedule(64)
    with watching.watching(lambda done, total: heard.append((done, total))):
        simulate_schedule(schedule, star(64, np.linspace(1e6, 2e6, 128)), 1e6, engine=engine)
    done, totals = zip(*heard, strict=True)
    assert len(done) > 6
    assert sorted(set(done)) == list(done)
    assert done[-1] == 12
    assert set(totals) == {12}


def test_nobody_hears_of_a_short_simulation():
    heard = []
    schedule = load_topology("ring", {}).schedule(4)
    with watching.watching(lambda done, total: heard.append(done)):
        simulate_schedule(schedule, star(4, 1e6), 1e6)
    assert heard == []
