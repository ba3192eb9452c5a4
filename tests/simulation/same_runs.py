"""Runs of two engines compared: every number to 1e-12, every name as it is."""

from __future__ import annotations

from typing import Any

import numpy as np

from dgc_topo.simulation import Bounds, ScheduleRun
from dgc_topo.simulation.training import StepRun

ROUNDING = 1e-12  #: relative


def _assert_same(found: object, expected: object, *names: str) -> None:
    for name in names:
        one: Any = getattr(found, name)
        other: Any = getattr(expected, name)
        np.testing.assert_allclose(one, other, rtol=ROUNDING, atol=0, err_msg=name)


def assert_same_bounds(found: Bounds, expected: Bounds) -> None:
    _assert_same(found, expected, "link_s", "cpu_s", "latency_s", "largest_s")
    assert (found.link, found.cpu) == (expected.link, expected.cpu)
    assert found.bound_by == expected.bound_by


def assert_same_run(found: ScheduleRun, expected: ScheduleRun) -> None:
    _assert_same(found, expected, "finish_s", "time_s", "bytes_sent")
    assert found.messages == expected.messages
    assert_same_bounds(found.bounds, expected.bounds)


def assert_same_step(found: StepRun, expected: StepRun) -> None:
    names = ("start_s", "end_s", "bytes_sent", "messages_sent")
    _assert_same(found.traffic, expected.traffic, *names)
    _assert_same(found, expected, "step_time_s", "end_s", "decode_start_s", "decode_end_s")
    # Differences of times are as exact as these.
    near = ROUNDING * expected.step_time_s
    np.testing.assert_allclose(found.phases, expected.phases, rtol=ROUNDING, atol=near)
    assert abs(found.communication_s - expected.communication_s) <= len(found.buckets) * near
    assert_same_bounds(found.traffic.bounds, expected.traffic.bounds)
    assert found.bound_by == expected.bound_by
