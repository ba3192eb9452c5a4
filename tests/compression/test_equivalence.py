"""With nothing left out, compressed training is momentum SGD."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from dgc_topo.compression.compressor import Compressor
from dgc_topo.compression.config import DGCConfig
from dgc_topo.compression.dense import Dense
from tests.compression.workers import (
    Gradients,
    apply,
    constant,
    dgc_ranks,
    model,
    quadratics,
    random_like,
    step,
)

LR, STEPS = 0.05, 60


def train(ranks: Sequence[Compressor], parameters: Gradients) -> None:
    """Train with one set of parameters: all ranks' updates are checked to be the same."""
    workers = quadratics(len(ranks), parameters)
    for _ in range(STEPS):
        updates = step(ranks, [worker(parameters) for worker in workers])
        for other in updates[1:]:
            assert all(torch.equal(other[name], updates[0][name]) for name in other)
        apply(parameters, updates[0], LR)


def train_reference(
    num_workers: int, *, decoupled: float = 0.0, clip: float | None = None, **settings: float
) -> dict[str, Tensor]:
    """Train with torch.optim.SGD on the mean gradient."""
    parameters = model()
    optimizer = torch.optim.SGD(parameters.values(), lr=LR, **settings)  # type: ignore[arg-type]
    workers = quadratics(num_workers, parameters)
    for _ in range(STEPS):
        gradients = [worker(parameters) for worker in workers]
        for name, parameter in parameters.items():
            parameter.grad = torch.stack([g[name] for g in gradients]).sum(0)
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters.values(), clip)
        before = {name: decoupled * p.detach().clone() for name, p in parameters.items()}
        optimizer.step()
        apply(parameters, before, LR)
    return parameters


def assert_same(found: Gradients, expected: Gradients) -> None:
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("mode", ["local", "separate"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.02])
@pytest.mark.parametrize("num_workers", [1, 3])
def test_density_1_equals_momentum_sgd(nesterov, mode, weight_decay, num_workers):
    parameters = model()
    config = constant(
        density=1, nesterov=nesterov, weight_decay=weight_decay, weight_decay_mode=mode
    )
    train(dgc_ranks(num_workers, parameters, config), parameters)
    settings = {"momentum": 0.9, "nesterov": nesterov, "weight_decay": weight_decay}
    assert_same(parameters, train_reference(num_workers, **settings))


@pytest.mark.parametrize("switch", ["accumulation", "momentum_correction"])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("mode", ["local", "separate"])
def test_density_1_with_momentum_after_the_sum_is_the_same_sgd(switch, nesterov, mode):
    parameters = model()
    law = {"weight_decay_mode": mode, "nesterov": nesterov, switch: False}
    config = constant(None, density=1, weight_decay=0.02, **law)
    train(dgc_ranks(3, parameters, config), parameters)
    settings = {"momentum": 0.9, "nesterov": nesterov, "weight_decay": 0.02}
    assert_same(parameters, train_reference(3, **settings))


@pytest.mark.parametrize("switch", ["accumulation", "momentum_correction"])
def test_decoupled_decay_is_the_same_where_momentum_comes_after_the_sum(switch):
    parameters = model()
    law = {"weight_decay_mode": "decoupled", switch: False}
    config = constant(None, density=0.9999, weight_decay=0.02, **law)
    train(dgc_ranks(2, parameters, config), parameters)
    assert_same(parameters, train_reference(2, decoupled=0.02, momentum=0.9))


@pytest.mark.parametrize("nesterov", [False, True])
def test_density_1_with_decoupled_decay_equals_sgd_that_shrinks_the_weights(nesterov):
    parameters = model()
    config = constant(
        density=1, nesterov=nesterov, weight_decay=0.02, weight_decay_mode="decoupled"
    )
    train(dgc_ranks(2, parameters, config), parameters)
    assert_same(parameters, train_reference(2, decoupled=0.02, momentum=0.9, nesterov=nesterov))


def test_density_1_without_momentum_equals_plain_sgd():
    parameters = model()
    train(dgc_ranks(2, parameters, constant(density=1, momentum=0)), parameters)
    assert_same(parameters, train_reference(2))


@pytest.mark.parametrize("mode", ["local", "separate"])
def test_almost_everything_sent_without_masking_also_equals_momentum_sgd(mode):
    # Through the sparse path: round(0.9999 * n) is n for these layers.
    parameters = model()
    config = constant(density=0.9999, masking=False, weight_decay=0.02, weight_decay_mode=mode)
    train(dgc_ranks(3, parameters, config), parameters)
    assert_same(parameters, train_reference(3, momentum=0.9, weight_decay=0.02))


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.02])
@pytest.mark.parametrize("clip", [None, 0.5])
def test_dense_equals_momentum_sgd(nesterov, weight_decay, clip):
    parameters = model()
    settings = {"momentum": 0.9, "nesterov": nesterov, "weight_decay": weight_decay}
    train([Dense(parameters, clip_norm=clip, **settings) for _ in range(3)], parameters)
    assert_same(parameters, train_reference(3, clip=clip, **settings))


def test_dense_with_decoupled_decay_equals_sgd_that_shrinks_the_weights():
    parameters = model()
    ranks = [Dense(parameters, weight_decay=0.02, decoupled_weight_decay=True) for _ in range(2)]
    train(ranks, parameters)
    assert_same(parameters, train_reference(2, decoupled=0.02, momentum=0.9))


def test_separate_decay_shrinks_the_weights_every_step_however_few_elements_are_sent():
    parameters, reference = model(), model()
    config = constant(density=0.01, weight_decay=0.1, weight_decay_mode="separate")
    ranks = dgc_ranks(2, parameters, config)
    optimizer = torch.optim.SGD(reference.values(), lr=LR, momentum=0.9, weight_decay=0.1)
    zeros = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for _ in range(STEPS):
        apply(parameters, step(ranks, [zeros, zeros])[0], LR)
        for name, parameter in reference.items():
            parameter.grad = zeros[name].clone()
        optimizer.step()
    assert_same(parameters, reference)


def test_one_dimensional_tensors_get_dense_momentum_at_any_density():
    parameters, dense_parameters = model(), model()
    ranks = dgc_ranks(2, parameters, constant(density=0.01, weight_decay=0.02))
    reference = [Dense(dense_parameters, weight_decay=0.02) for _ in range(2)]
    generator = torch.Generator().manual_seed(7)
    for _ in range(5):
        gradients = [random_like(parameters, generator) for _ in range(2)]
        found, expected = step(ranks, gradients)[0], step(reference, gradients)[0]
        for name in ("conv.bias", "norm.scale", "fc.bias"):
            torch.testing.assert_close(found[name], expected[name], rtol=0, atol=0)
        apply(parameters, found, LR)
        apply(dense_parameters, expected, LR)


def test_a_half_precision_model_keeps_float32_state_and_updates():
    parameters = {name: p.detach().to(torch.bfloat16) for name, p in model().items()}
    config = constant(density=0.1, weight_decay=0.01)
    rank = dgc_ranks(1, parameters, config)[0]
    generator = torch.Generator().manual_seed(1)
    gradients = {n: g.to(torch.bfloat16) for n, g in random_like(parameters, generator).items()}
    updates = step([rank], [gradients])[0]
    tensors = [*updates.values(), *rank.residuals().values(), *rank.velocities().values()]
    assert {tensor.dtype for tensor in tensors} == {torch.float32}
    total = updates["fc.weight"] + rank.residuals()["fc.weight"]
    decayed = gradients["fc.weight"].float() + 0.01 * parameters["fc.weight"].float()
    torch.testing.assert_close(total, decayed)


def test_the_default_settings_are_the_papers():
    assert DGCConfig() == DGCConfig(density=0.001, momentum=0.9, masking=True, warm_up="paper")
