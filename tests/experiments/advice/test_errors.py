"""Intervals of predictions: conformal widths from validations."""

from math import exp, inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.advice_errors import (
    FOLDERS,
    OTHER_DAY,
    RESULTS,
    UNSHAPED,
    rows_of,
    share_held,
    share_held_elsewhere,
)
from dgc_topo.experiments.advice.errors import (
    FILE,
    collective_width,
    step_width,
    widths_of,
    write_widths,
)
from dgc_topo.experiments.validation.records import ValidationRow, load_rows


def row(ratio: float, group: str = "collectives", payload: str = "dense", num_bytes: float = 10.0):
    return ValidationRow(
        group=group,
        name="ring",
        world_size=4,
        payload=payload,
        num_bytes=num_bytes,
        bytes_sent=num_bytes,
        measured_s=ratio,
        spread=0.0,
        predicted_s=1.0,
    )


@given(st.lists(st.floats(1.0, 9.0), min_size=10, max_size=60))
def test_a_width_holds_nine_tenths_of_its_rows_and_is_the_smallest_that_does(ratios):
    (found,) = widths_of([row(ratio) for ratio in ratios]).values()
    held = sum(ratio <= exp(found.width) * (1 + 1e-12) for ratio in ratios)
    assert held >= 0.9 * len(ratios)
    assert any(abs(ratio - exp(found.width)) < 1e-9 for ratio in ratios)


def test_too_slow_counts_as_too_fast():
    (slow,), (fast,) = (widths_of([row(ratio)]).values() for ratio in (2.0, 0.5))
    assert slow == pytest.approx(fast)


def test_the_package_comes_with_the_widths_of_the_committed_validations(tmp_path):
    """``python -m benchmarks.advice_errors`` makes the file."""
    write_widths(widths_of(rows_of((*FOLDERS, *UNSHAPED))), tmp_path / "made.json")
    assert (tmp_path / "made.json").read_text() == FILE.read_text()


@pytest.mark.parametrize("folders", [FOLDERS, UNSHAPED])
def test_widths_of_one_half_of_the_rows_hold_nine_tenths_of_the_other(folders):
    """Every row is in the half that the widths never saw about twenty times."""
    rows = rows_of(folders)
    found = [share_held(rows, seed) for seed in range(40)]
    held, tried = (sum(column) for column in zip(*found, strict=True))
    assert 0.87 <= held / tried <= 0.93


def test_more_than_300_rows_are_tried():
    assert len(rows_of((*FOLDERS, *UNSHAPED))) >= 300


def test_widths_hold_nine_tenths_of_what_another_days_calibration_predicts():
    found = [share_held_elsewhere(seed) for seed in range(40)]
    held, tried = (sum(column) for column in zip(*found, strict=True))
    assert len(load_rows(RESULTS / OTHER_DAY)) == 237
    assert 0.87 <= held / tried <= 0.93


def test_a_size_that_no_validation_had_gets_the_widest_interval_of_its_kind():
    small = step_width(sparse=True, num_bytes=1e3)
    assert step_width(sparse=True, num_bytes=1e9) == small  # all sparse steps were small
    assert 0 < collective_width(sparse=False, num_bytes=1e9) < inf
