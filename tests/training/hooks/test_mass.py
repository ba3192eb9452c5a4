"""No gradient is lost: what was handed to the hook was applied, or is in a residual."""

import pytest

from tests.training.hooks import mass_jobs

SETTINGS = {"topology": "butterfly", "density": 0.03}


@pytest.mark.parametrize(
    ("situation", "merge"),
    [
        ({}, "union"),  # DDP makes new buckets after its first step
        ({"odd": True}, "union"),
        ({"odd": True}, "reselect"),
        ({"scaled": True}, "union"),
        ({"scaled": True, "infinite_at": 0}, "union"),
        ({"scaled": True, "infinite_at": 5}, "reselect"),
        ({"infinite_at": 5}, "union"),  # the scaler is switched off
        ({"breaks_at": 4}, "union"),
        ({"breaks_at": 4}, "reselect"),
        ({"breaks_at": 11}, "union"),  # and nothing comes after it but a snapshot
        ({"unfreezes_at": 3}, "union"),
    ],
    ids=str,
)
def test_all_gradients_are_applied_or_kept(workers, situation, merge):
    found = workers.run(3, mass_jobs.lost_mass, SETTINGS | {"merge": merge}, situation)
    for lost, skipped in found:
        assert skipped == ("infinite_at" in situation)
        assert len(lost) == 3
        assert max(lost.values()) < 1e-6
