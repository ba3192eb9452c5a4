"""The hook on CUDA, two ranks over Gloo sharing a GPU: the tests of the CPU, there."""

import pytest

from tests.training.hooks import jobs


@pytest.mark.gpu
@pytest.mark.parametrize("density", [{"density": 1.0}, {"density": 0.99999, "masking": False}])
def test_a_hook_that_loses_nothing_trains_as_ddp_does(workers, density):
    settings = {"settings": {"momentum": 0.9}, "device": "cuda"}
    for likenesses in workers.run(2, jobs.likeness_of, [density], settings):
        for each in likenesses:
            assert each.same
            assert each.difference <= 10 * each.noise + 1e-6
