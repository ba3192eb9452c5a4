"""Exact top-k per layer: the right elements, the right number, wherever they lie."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgc_topo.compression.layout import FlatLayout
from dgc_topo.compression.selection import top_k_per_layer
from dgc_topo.sizes import entries_of

small_values = st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.0, 0.5, 1.0, 2.0])


def layout_of(*sizes: int) -> FlatLayout:
    return FlatLayout.of({str(i): torch.empty(size, 1) for i, size in enumerate(sizes)})


@settings(max_examples=150)
@given(
    layers=st.lists(st.lists(small_values, max_size=12), min_size=1, max_size=4),
    density=st.floats(0.001, 0.999),
)
def test_each_layer_sends_its_largest_with_ties_to_the_lower_index_and_no_zeros(layers, density):
    layout = layout_of(*map(len, layers))
    expected: list[int] = []
    for offset, values in zip(layout.offsets, layers, strict=False):
        magnitudes = np.abs(np.array(values))
        order = np.argsort(-magnitudes, kind="stable")[: entries_of(len(values), density)]
        expected += sorted(offset + int(i) for i in order if magnitudes[i] > 0)
    residual = torch.tensor([value for layer in layers for value in layer], dtype=torch.float32)
    assert top_k_per_layer(residual, layout, density).tolist() == expected


@pytest.mark.parametrize(
    ("num_elements", "density", "count"),
    [
        (0, 0.5, 0),
        (1, 0.001, 1),
        (10, 0.001, 1),
        (1000, 0.001, 1),
        (1_000_000, 0.001, 1000),
        (10, 0.999, 10),
        (2600, 0.001, 3),
    ],
)
def test_a_layer_sends_the_rounded_share_but_at_least_one(num_elements, density, count):
    assert entries_of(num_elements, density) == count


def test_every_position_is_equally_likely_to_be_sent():
    # Many more candidates than places at almost equal magnitude: any rule that keeps the first k
    # of those above a threshold sends the end of the buffer less often.
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(1000)
    for _ in range(400):
        residual = 1 + 1e-3 * torch.randn(1000, generator=generator)
        counts[top_k_per_layer(residual, layout_of(1000), 0.1)] += 1
    tenths = counts.view(10, 100).sum(1) / counts.sum()
    # 4000 elements expected per tenth; five standard deviations are 8 %.
    assert ((tenths - 0.1).abs() < 0.008).all()


def test_small_layers_are_not_crowded_out_by_large_values_elsewhere():
    residual = torch.cat([torch.full((100,), 1e6), torch.full((100,), 1e-6)])
    picked = top_k_per_layer(residual, layout_of(100, 100), 0.05)
    assert (picked < 100).sum() == (picked >= 100).sum() == 5


def test_selection_is_the_same_every_time():
    residual = torch.randint(-3, 4, (10_000,), generator=torch.Generator().manual_seed(2)).float()
    first = top_k_per_layer(residual, layout_of(10_000), 0.01)
    assert all(top_k_per_layer(residual, layout_of(10_000), 0.01).equal(first) for _ in range(3))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_breaks_ties_like_the_cpu():
    residual = torch.randint(-3, 4, (100_000,), generator=torch.Generator().manual_seed(2)).float()
    layout = layout_of(40_000, 60_000)
    found = top_k_per_layer(residual.cuda(), layout, 0.01).cpu()
    assert found.equal(top_k_per_layer(residual, layout, 0.01))
