"""Predictions count the entries that DGC sends, for a layer's scope and for the model's."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dgc_topo.compression.config import DGCConfig
from dgc_topo.compression.dgc import DGC
from dgc_topo.simulation.training import LayerBucket, ReadyLayer, SparseEncoding
from dgc_topo.simulation.workload_sources import of_model
from dgc_topo.sizes import compressed_sizes
from dgc_topo.zoo import load_model
from tests.compression.workers import sparse_of

SHAPES = st.lists(
    st.lists(st.integers(1, 12), min_size=1, max_size=3).map(tuple), min_size=1, max_size=6
).filter(lambda shapes: any(len(shape) > 1 for shape in shapes))


def sent(shapes, density, scope):
    """Return the entries that one rank sends of a random gradient, none of them zero."""
    generator = torch.Generator().manual_seed(0)
    gradients = {
        str(place): torch.rand(shape, generator=generator) + 0.5
        for place, shape in enumerate(shapes)
    }
    config = DGCConfig(density=density, scope=scope, warm_up="none", clip_norm=None)
    dgc = DGC({n: torch.zeros_like(g) for n, g in gradients.items()}, num_workers=1, config=config)
    return sparse_of(dgc.compress(gradients)).num_entries


def predicted(layers, density, scope):
    return SparseEncoding(density, scope=scope).entries(LayerBucket(tuple(layers)))


@pytest.mark.parametrize("scope", ["layer", "model"])
@given(shapes=SHAPES, density=st.floats(1e-4, 0.999))
def test_a_prediction_has_the_entries_that_are_sent(scope, shapes, density):
    layer = ReadyLayer("all", 1.0, compressed_sizes(shapes), dense_elements=0)
    assert predicted([layer], density, scope) == sent(shapes, density, scope)


@pytest.mark.parametrize("scope", ["layer", "model"])
@pytest.mark.parametrize("density", [0.0003, 0.001, 0.25])
def test_a_model_of_the_zoo_sends_what_is_predicted(density, scope):
    model = load_model("resnet110-cifar")
    workload = of_model(model)
    assert predicted(workload.layers, density, scope) == sent(model.shapes, density, scope)
