"""Updates that go right into a bucket are those that `DGC.finish` returns."""

import pytest
import torch
from torch import nn

from dgc_topo.compression.config import DGCConfig
from dgc_topo.payload import SparsePayload
from dgc_topo.training.hooks.compressors import BucketDGC


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"momentum": 0.0, "momentum_correction": False},
        {"momentum_correction": False},
        {"merge": "reselect"},
        {"weight_decay": 0.1, "weight_decay_mode": "separate"},
        {"weight_decay": 0.1, "weight_decay_mode": "decoupled"},
        {"density": 0.5},
        {"density": 1.0},
    ],
    ids=str,
)
def test_updates_are_written_bit_for_bit(settings):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(7, 9), nn.LayerNorm(9), nn.Linear(9, 3, bias=False))
    parameters = dict(net.named_parameters())
    config = DGCConfig(**{"density": 0.1, "warm_up": "none", **settings})
    one, other = (BucketDGC(parameters, num_workers=2, config=config) for _ in range(2))
    into = {name: torch.full_like(each, torch.nan) for name, each in parameters.items()}
    for _ in range(5):
        gradients = {name: torch.randn_like(each) for name, each in parameters.items()}
        expected = one.finish(one.compress(gradients))
        other.finish_into(other.compress(gradients), into)
        assert all(torch.equal(expected[name], into[name]) for name in parameters)
    assert all(map(torch.equal, one.momenta(), other.momenta()))


def test_a_bucket_of_biases_alone_has_nothing_to_compress():
    """Without a warning, and with any rule of selection."""
    for selection in ("exact", "sampled", "reused"):
        biases = {"first": nn.Parameter(torch.ones(7)), "last": nn.Parameter(torch.ones(5))}
        config = DGCConfig(density=0.1, momentum=0.0, warm_up="none", selection=selection)
        dgc = BucketDGC(biases, num_workers=1, config=config)
        into = {name: torch.empty_like(each) for name, each in biases.items()}
        payload = dgc.compress({name: 2 * each.detach() for name, each in biases.items()})
        sparse, _ = payload.parts  # type: ignore[attr-defined]
        assert isinstance(sparse, SparsePayload)
        assert sparse.num_entries == 0
        dgc.finish_into(payload, into)
        assert all(each.eq(2).all() for each in into.values())
