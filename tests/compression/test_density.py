"""Density over the epochs, and settings that make no sense."""

import pytest

from dgc_topo.compression.config import DGCConfig
from dgc_topo.compression.density import (
    StagedDensity,
    constant_density,
    geometric_warm_up,
    paper_warm_up,
)
from dgc_topo.compression.dgc import DGC
from tests.compression.workers import model


def test_the_papers_warm_up_takes_one_epoch_per_value():
    schedule = DGCConfig().density_schedule()
    found = [schedule.density_at(epoch) for epoch in (0, 0.99, 1, 2, 3, 3.99, 4, 90)]
    assert found == [0.25, 0.25, 0.0625, 0.015625, 0.004, 0.004, 0.001, 0.001]


def test_the_geometric_warm_up_multiplies_density_by_one_factor_per_stage():
    schedule = geometric_warm_up(0.001, epochs=4, stages=4)
    expected = [0.001 ** ((stage + 1) / 5) for stage in range(5)]
    assert [schedule.density_at(epoch) for epoch in range(5)] == pytest.approx(expected)


@pytest.mark.parametrize(("epochs", "stages"), [(6.0, 6), (4.0, 4), (0.3, 1)])
def test_the_geometric_warm_up_has_a_stage_per_epoch_unless_told(epochs, stages):
    config = DGCConfig(warm_up="geometric", warm_up_epochs=epochs)
    assert config.density_schedule() == geometric_warm_up(0.001, epochs, stages)
    told = DGCConfig(warm_up="geometric", warm_up_epochs=epochs, warm_up_stages=3)
    assert told.density_schedule() == geometric_warm_up(0.001, epochs, 3)


def test_a_warm_up_fits_any_length():
    schedule = paper_warm_up(0.001, epochs=0.4)
    found = [schedule.density_at(epoch) for epoch in (0.05, 0.15, 0.25, 0.35, 0.4)]
    assert found == [0.25, 0.0625, 0.015625, 0.004, 0.001]


def test_density_never_falls_below_the_target():
    schedule = paper_warm_up(0.01)
    assert [schedule.density_at(epoch) for epoch in range(5)] == [
        0.25,
        0.0625,
        0.015625,
        0.01,
        0.01,
    ]


def test_density_never_rises():
    for schedule in (paper_warm_up(0.001, 3.7), geometric_warm_up(0.002, 2.5, stages=7)):
        found = [schedule.density_at(step / 1000) for step in range(5000)]
        assert found == sorted(found, reverse=True)
        assert found[-1] == schedule.target


def test_without_a_warm_up_density_is_constant_and_progress_optional():
    assert constant_density(0.1).density_at(0) == 0.1
    assert DGC(model(), num_workers=1, config=DGCConfig(density=0.1, warm_up="none")).density == 0.1


def test_progress_sets_the_density():
    rank = DGC(model(), num_workers=1)
    rank.set_progress(2.5)
    assert rank.density == 0.015625


def test_a_forgotten_warm_up_is_an_error_not_a_constant_density():
    parameters = model()
    rank = DGC(parameters, num_workers=1)
    gradients = {name: p.detach() for name, p in parameters.items()}
    with pytest.raises(RuntimeError, match="set_progress was never called"):
        rank.compress(gradients)
    assert rank.step == 0


@pytest.mark.parametrize("epoch", [-1.0, float("nan"), float("inf")])
def test_impossible_progress_is_refused(epoch):
    with pytest.raises(ValueError, match="expected a finite number >= 0"):
        DGC(model(), num_workers=1).set_progress(epoch)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"density": 0}, "density 0, expected 0 < density <= 1"),
        ({"density": 1.5}, "density 1.5"),
        ({"density": float("nan")}, "density nan"),
        ({"momentum": 1.0}, "momentum 1.0, expected 0 <= momentum < 1"),
        ({"momentum": 0.0, "nesterov": True}, "above 0 with nesterov"),
        ({"clip_norm": 0.0}, "clip_norm 0.0, expected a finite number above 0, or None"),
        ({"weight_decay": -0.1}, "weight_decay -0.1"),
        ({"weight_decay_mode": "global"}, "expected one of local, separate, decoupled"),
        ({"warm_up": "linear"}, "expected one of none, paper, geometric"),
        ({"warm_up_epochs": 0}, "warm_up_epochs 0"),
        ({"warm_up_stages": 0}, "warm_up_stages 0, expected at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DGCConfig(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"target": 0.1, "stages": (0.5, 0.0), "warm_up_epochs": 1},
        {"target": 2.0},
        {"target": 0.1, "stages": (0.5,)},
        {"target": 0.1, "warm_up_epochs": 3},
    ],
)
def test_schedules_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError, match="density schedule: "):
        StagedDensity(**settings)
