"""Runs whose sums were cut are predicted from what one worker sent, not from what was left."""

import numpy as np
import pytest

from dgc_topo.experiments.training_cases import cases_of_runs
from dgc_topo.records.measurement import SparseSizes
from dgc_topo.simulation.training import SparseEncoding
from tests.records import COMPUTING, measurement


def encoding_of(**sums) -> SparseEncoding:
    sizes = {"length": 100_000, "dense_elements": 0, "entries": 1000, "index_encoding": "auto"}
    [case] = cases_of_runs(
        [measurement(solo_phases=COMPUTING, sparse=SparseSizes(**{**sizes, **sums}))]
    )
    assert isinstance(case.step.encoding, SparseEncoding)
    return case.step.encoding


def test_what_is_left_of_a_sum_does_not_say_how_far_entries_overlapped():
    contributors = np.array([1, 2])
    exact = encoding_of(merged_entries=1500)
    cut = encoding_of(merged_entries=980, merge="reselect")
    whole = encoding_of(merged_entries=1500, merge="auto")  # nobody sent a complete sum on
    assert (exact.merge, cut.merge, whole.merge) == ("union", "reselect", "auto")
    grown = [each.union(100_000, 1000)(contributors)[1] for each in (exact, cut, whole)]
    assert grown[0] == grown[2] < grown[1] == pytest.approx(1990, abs=1)


def test_a_record_without_a_policy_was_exact():
    assert SparseSizes(length=1, dense_elements=0, entries=1, merged_entries=1).merge == "union"
