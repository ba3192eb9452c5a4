"""What a user can get wrong is named: the parameter, the value, and what was expected."""

from collections.abc import Callable

import pytest
import torch

from dgc_topo.compression.compressor import Compressor, check_optimizer
from dgc_topo.compression.config import DGCConfig
from dgc_topo.compression.dense import Dense
from dgc_topo.compression.dgc import DGC
from dgc_topo.payload import BundlePayload, DensePayload, SparsePayload
from tests.compression.workers import constant, dgc_ranks, model, random_like

MAKERS: dict[str, Callable[[dict[str, torch.Tensor]], Compressor]] = {
    "dense": Dense,
    "dgc": lambda p: DGC(p, num_workers=2, config=constant(density=0.1)),
}


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.SGD([{"params": p[:1]}, {"params": p[1:], "momentum": 0.5}], lr=0.1),
        lambda p: torch.optim.RMSprop(p, momentum=0.9),
        torch.optim.Adam,
    ],
    ids=["sgd", "second-group", "rmsprop", "adam"],
)
def test_an_optimizer_with_momentum_on_top_is_refused(optimizer):
    parameters = model()
    rank = dgc_ranks(1, parameters, constant())[0]
    with pytest.raises(ValueError, match=r"has momentum 0\.\d in parameter group \d, expected 0"):
        rank.check_optimizer(optimizer(list(parameters.values())))


def test_an_optimizer_without_momentum_or_a_compressor_without_is_fine():
    parameters = model()
    plain, heavy = (torch.optim.SGD(parameters.values(), lr=0.1, momentum=m) for m in (0, 0.9))
    check_optimizer(plain, dgc_ranks(1, parameters, constant())[0])
    check_optimizer(plain, Dense(parameters))
    check_optimizer(heavy, Dense(parameters, momentum=0))
    with pytest.raises(ValueError, match="dense applies momentum itself"):
        check_optimizer(heavy, Dense(parameters))


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS.keys())
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fc.weight": None}, "no gradient for parameter 'fc.weight', expected one for each"),
        ({"fc.weight": torch.zeros(12, 5)}, r"shape \(12, 5\).* expected a dense tensor of shape"),
        ({"fc.weight": torch.zeros(5, 12).to_mkldnn()}, "is torch._mkldnn, expected a dense"),
        ({"fc.weight": torch.zeros(5, 12, device="meta")}, "is on meta, expected cpu"),
        ({"other": torch.zeros(1)}, "gradient for unknown parameter 'other'"),
    ],
)
def test_gradients_that_do_not_fit_the_parameters_are_refused(maker, change, message):
    parameters = model()
    gradients = random_like(parameters, torch.Generator().manual_seed(0)) | change
    with pytest.raises(ValueError, match=message):
        maker(parameters).compress({n: g for n, g in gradients.items() if g is not None})


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS.keys())
@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "no parameters, expected at least one"),
        ({"w": torch.zeros(2, 2, dtype=torch.int64)}, "'w' is torch.int64"),
        ({"w": torch.zeros(2, 2).to(torch.float8_e5m2)}, "'w' is torch.float8_e5m2, .* 64-bit"),
        ({"w": torch.zeros(2, 2), "x": torch.zeros(1, device="meta")}, "'x' is on meta"),
    ],
)
def test_parameters_that_do_not_fit_together_are_refused(maker, parameters, message):
    with pytest.raises(ValueError, match=message):
        maker(parameters)


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS.keys())
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_parameters_may_be_of_16_or_64_bits(maker, dtype):
    parameters = {name: value.to(dtype) for name, value in model().items()}
    gradients = {name: torch.ones_like(value) for name, value in parameters.items()}
    compressor = maker(parameters)
    updates = compressor.finish(compressor.compress(gradients))
    assert set(updates) == set(parameters)
    assert max(float(update.max()) for update in updates.values()) == 1


def test_a_norm_that_overflows_is_shown_by_the_update():
    """Clipping by infinity would make it 0: training would stand still, and nobody would know."""
    parameters = {"w": torch.zeros(100)}
    rank = Dense(parameters, clip_norm=1.0)
    updates = rank.finish(rank.compress({"w": torch.full((100,), 1e19)}))
    assert bool(updates["w"].isnan().all())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"momentum": 1.0}, "dense: momentum 1.0, expected 0 <= momentum < 1"),
        ({"momentum": 0.0, "nesterov": True}, "0 < momentum < 1 with nesterov"),
        ({"weight_decay": -1.0}, "dense: weight_decay -1.0, expected at least 0"),
        ({"clip_norm": 0.0}, "dense: clip_norm 0.0, expected above 0, or None"),
        ({"wire_dtype": torch.float64}, "wire_dtype torch.float64"),
    ],
)
def test_dense_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Dense(model(), **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"wire_dtype": "float64"}, "wire_dtype 'float64', expected one of float32, float16"),
        ({"index_encoding": "zip"}, "index_encoding 'zip', expected one of auto, dense, run-"),
    ],
)
def test_codings_that_nobody_knows_are_refused(settings, message):
    with pytest.raises(ValueError, match=f"dgc config: {message}"):
        DGCConfig(**settings)


def test_a_world_without_workers_is_refused():
    with pytest.raises(ValueError, match="num_workers 0, expected at least 1"):
        DGC(model(), num_workers=0)


def _sparse(length: int) -> SparsePayload:
    return SparsePayload(torch.empty(0, dtype=torch.int64), torch.empty(0), length)


@pytest.mark.parametrize(
    "payload",
    [
        DensePayload(torch.zeros(3)),
        _sparse(168),
        BundlePayload([_sparse(167), DensePayload(torch.zeros(10))]),
        BundlePayload([_sparse(168), DensePayload(torch.zeros(9))]),
        BundlePayload([_sparse(168)]),
    ],
)
def test_a_payload_that_compress_could_not_have_made_is_refused(payload):
    with pytest.raises(ValueError, match="expected a sum of what compress returned"):
        MAKERS["dgc"](model()).finish(payload)
    with pytest.raises(ValueError, match="expected a sum of what compress returned"):
        MAKERS["dense"](model()).finish(payload)


def test_give_back_refuses_tensors_of_different_lengths():
    rank = dgc_ranks(1, model(), constant())[0]
    with pytest.raises(ValueError, match="expected two 1-D tensors of one length"):
        rank.give_back(torch.zeros(2, dtype=torch.int64), torch.zeros(3))
