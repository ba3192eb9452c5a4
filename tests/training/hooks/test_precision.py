"""Autocast, and models whose parameters are not float32."""

import pytest

from tests.training.hooks import jobs


@pytest.mark.parametrize(
    ("dtype", "autocast", "unit"),
    [("float32", True, 2e-4), ("bfloat16", False, 2**-7), ("float64", False, 1e-6)],
)
def test_other_types_of_numbers_train_as_in_ddp(workers, dtype, autocast, unit):
    """Sums are float32; a 16-bit model's parameters move by units of the last place."""
    hooks = [{"density": 1.0}, {"density": 0.99999, "masking": False}]
    settings = {"dtype": dtype, "autocast": autocast, "steps": 6, "settings": {"momentum": 0.9}}
    for likenesses in workers.run(2, jobs.likeness_of, hooks, settings):
        for each in likenesses:
            assert each.same
            assert each.difference <= 10 * each.noise + unit
