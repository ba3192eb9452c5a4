"""PowerSGD as a reference: bytes by its published formula."""

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook

import dgc_topo as dt
from dgc_topo.experiments.advice.powersgd import factor_elements, factored


@pytest.mark.parametrize(
    ("shape", "ratio"),
    [((512, 512, 3, 3), 461), ((64, 64, 3, 3), 58), ((28869, 650), 636), ((2600, 650), 520)],
)
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_ratios_are_the_published_ones(shape, ratio, rank):
    """Vogels et al. 2019, appendix, parameters of ResNet-18 and of the LSTM: ``ratio / r``."""
    found = prod(shape) / factor_elements(shape, rank)
    assert found == pytest.approx(ratio / rank, rel=2e-3 * 5)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 40))
def test_as_many_numbers_as_torchs_own_hook_sends(rows, columns, rank):
    pays, whole, factors = powerSGD_hook._should_compress(rows, columns, rank, 1)
    assert factor_elements((rows, columns), rank) == (factors if pays else whole)


def test_biases_travel_whole_and_layers_stay():
    workload = dt.load_workload("resnet20-cifar")
    sent = factored(workload, 4)
    assert sent is not None
    assert sent.compute_s == workload.compute_s
    own = sum(factor_elements(s, 4) for layer in workload.layers for s in layer.shapes)
    assert sent.num_elements == workload.dense_elements + own


def test_advice_names_it_as_a_bound_and_not_as_a_way():
    advice = dt.advise("resnet50", 4, network="1gbe")
    names = [each.name for each in advice.references]
    assert names == ["PowerSGD rank 1", "PowerSGD rank 4"]
    first, fourth = advice.references
    assert first.own_bytes < fourth.own_bytes < advice.workload.gradient_bytes / 20
    for each in advice.references:
        assert advice.workload.compute_s <= each.least_s <= advice.best_dense.step_time_s
    assert not any("PowerSGD" in way.label for way in advice.ways)
    assert "PowerSGD rank 4" in advice._repr_html_()
    assert advice.as_dict()["references"]


def test_without_shapes_there_is_no_reference():
    advice = dt.advise(parameters="25M", step_time=0.1, hosts=2)
    assert advice.references == ()
