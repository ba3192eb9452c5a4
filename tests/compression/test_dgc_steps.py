"""DGC's arithmetic: numbers worked by hand, and what each stage must do."""

import math

import pytest
import torch
from torch import Tensor

from dgc_topo.compression.density import StagedDensity
from dgc_topo.compression.dgc import DGC
from dgc_topo.compression.gradients import NonFiniteGradientError
from dgc_topo.payload import BundlePayload, DensePayload, SparsePayload
from tests.compression.workers import (
    SHAPES,
    add_up,
    buffer_of,
    constant,
    dgc_ranks,
    model,
    parts_of,
    random_like,
    sparse_of,
    step,
)

#: Two workers, four elements, three steps.
GRADIENTS = [
    [[1.0, -4, 2, 0], [3.0, 1, -1, 2]],
    [[1.0, 1, 1, 1], [0.0, 0, 2, -1]],
    [[0.0, 0, 0, 0], [0.0, 0, 0, 0]],
]


def matrix(values: list[float]) -> dict[str, Tensor]:
    return {"w": torch.tensor(values).view(2, 2)}


def flat(tensors: dict[str, Tensor]) -> list[float]:
    values: list[float] = tensors["w"].flatten().tolist()
    return values


@pytest.mark.parametrize(
    ("settings", "updates"),
    [
        ({}, [[3, -4, 0, 0], [0, 0, 4, 2], [3.25, 1.75, 0, 0]]),
        ({"masking": False}, [[3, -4, 0, 0], [0, 0, 4, 2], [5.5, 0, 0, 0]]),
        ({"nesterov": True}, [[4.5, -6, 0, 0], [0, 0, 5, 2]]),
        ({"momentum": 0.0}, [[3, -4, 0, 0], [0, 1, 3, 0], [2, 0, 1, 0]]),
        # Residuals of raw gradients; their sums are those of momentum 0, and get momentum after.
        ({"momentum_correction": False}, [[3, -4, 0, 0], [1.5, -1, 3, 0], [2.75, -0.5, 2.5, 0]]),
        ({"accumulation": False}, [[3, -4, 0, 0], [2.5, -2, 2, 0], [1.25, -1, 1, 0]]),
    ],
)
def test_updates_equal_those_worked_by_hand(settings, updates):
    config = constant(None, **{"density": 0.25, "momentum": 0.5, **settings})
    ranks = dgc_ranks(2, matrix([0.0] * 4), config)
    for gradients, expected in zip(GRADIENTS, updates, strict=False):
        for found in step(ranks, [matrix(g) for g in gradients]):
            assert flat(found) == expected


def test_state_after_two_steps_equals_that_worked_by_hand():
    ranks = dgc_ranks(2, matrix([0.0] * 4), constant(density=0.25, momentum=0.5))
    for gradients in GRADIENTS[:2]:
        step(ranks, [matrix(g) for g in gradients])
    assert [flat(rank.velocities()) for rank in ranks] == [[1.5, 1, 0, 1], [0, 0.5, 1.5, 0]]
    assert [flat(rank.residuals()) for rank in ranks] == [[2.5, 1, 0, 1], [0, 1.5, 0.5, 0]]


@pytest.mark.parametrize("switch", ["accumulation", "momentum_correction"])
def test_without_momentum_correction_there_is_no_velocity_to_keep(switch):
    parameters = model()
    rank = dgc_ranks(1, parameters, constant(None, **{"density": 0.1, switch: False}))[0]
    rank.compress(random_like(parameters, torch.Generator().manual_seed(3)))
    assert rank.velocities() == {}
    kept = [residual.count_nonzero().item() for residual in rank.residuals().values()]
    assert kept == ([0, 0] if switch == "accumulation" else [108 - 11, 60 - 6])


def test_without_accumulation_rejected_elements_are_dropped_as_well():
    config = constant(density=0.5, accumulation=False)
    rank = dgc_ranks(1, matrix([0.0] * 4), config)[0]
    sent = sparse_of(rank.compress(matrix([1.0, 2, 3, 4])))
    rank.give_back(sent.indices, sent.values)
    assert flat(rank.residuals()) == [0, 0, 0, 0]


def test_masking_zeroes_velocity_and_residual_exactly_where_sent():
    parameters = model()
    rank = dgc_ranks(1, parameters, constant(density=0.1))[0]
    sent = sparse_of(rank.compress(random_like(parameters, torch.Generator().manual_seed(3))))
    for state in (rank.velocities(), rank.residuals()):
        whole = torch.cat([state["conv.weight"].flatten(), state["fc.weight"].flatten()])
        assert (whole == 0).nonzero().flatten().equal(sent.indices)


def test_without_masking_velocity_stays_where_sent():
    parameters = model()
    rank = dgc_ranks(1, parameters, constant(density=0.1, masking=False))[0]
    rank.compress(random_like(parameters, torch.Generator().manual_seed(3)))
    assert all(velocity.all() for velocity in rank.velocities().values())


def test_clipping_uses_the_norm_of_the_whole_gradient_and_the_square_root_of_n():
    parameters = {"a": torch.zeros(1, 2), "b": torch.zeros(2)}
    gradients = {"a": torch.tensor([[3.0, 0.0]]), "b": torch.tensor([0.0, 4.0])}
    ranks = dgc_ranks(4, parameters, constant(density=1, momentum=0, clip_norm=2.0))
    updates = step(ranks, [gradients] * 4)[0]
    # Norm 5, bound 2 / sqrt(4) = 1: each rank sends a fifth, and four ranks add up.
    torch.testing.assert_close(updates["a"], torch.tensor([[2.4, 0.0]]))
    torch.testing.assert_close(updates["b"], torch.tensor([0.0, 3.2]))


def test_clipping_leaves_a_small_gradient_alone():
    parameters = model()
    gradients = random_like(parameters, torch.Generator().manual_seed(0), scale=1e-3)
    ranks = [dgc_ranks(1, parameters, constant(density=1, clip_norm=c))[0] for c in (100, None)]
    assert buffer_of(ranks[0].compress(gradients)).equal(buffer_of(ranks[1].compress(gradients)))


def test_clipping_acts_on_the_gradient_and_spares_what_has_accumulated():
    config = constant(density=0.25, momentum=0, clip_norm=1.0)
    rank = dgc_ranks(1, matrix([0.0] * 4), config)[0]
    sent = [sparse_of(rank.compress(matrix([60.0, 0, 0, 80]))) for _ in range(3)]
    # Each gradient adds (0.6, 0, 0, 0.8); what has waited is sent whole, beyond the bound of 1.
    assert [payload.indices.item() for payload in sent] == [3, 0, 3]
    assert [payload.values.item() for payload in sent] == pytest.approx([0.8, 1.2, 1.6])


def test_local_decay_is_added_after_clipping_and_divided_by_the_number_of_workers():
    parameters = matrix([10.0, 0, 0, 0])
    config = constant(density=1, momentum=0, clip_norm=1.0, weight_decay=0.4)
    payload = dgc_ranks(4, parameters, config)[0].compress(matrix([0.0, 3, 4, 0]))
    torch.testing.assert_close(buffer_of(payload), torch.tensor([1.0, 0.3, 0.4, 0]))


def test_the_payload_is_one_sparse_part_over_matrices_and_one_dense_part_over_the_rest():
    parameters = model()
    gradients = random_like(parameters, torch.Generator().manual_seed(5))
    payload = dgc_ranks(1, parameters, constant(density=0.1))[0].compress(gradients)
    sparse, rest = sparse_of(payload), parts_of(payload)[1]
    assert sparse.length == 108 + 60
    assert sparse.num_entries == 11 + 6
    assert int((sparse.indices >= 108).sum()) == 6
    dense = torch.cat([gradients[n].flatten() for n in ("conv.bias", "norm.scale", "fc.bias")])
    assert buffer_of(rest).equal(dense)


def test_density_1_sends_one_dense_payload_and_leaves_no_residual():
    parameters = model()
    rank = dgc_ranks(1, parameters, constant(density=1))[0]
    payload = rank.compress(random_like(parameters, torch.Generator().manual_seed(5)))
    assert buffer_of(payload).numel() == sum(math.prod(s) for s in SHAPES.values())
    assert not any(residual.any() for residual in rank.residuals().values())


def test_going_from_density_1_to_sparse_carries_the_velocity_on():
    rank = DGC(
        matrix([0.0] * 4),
        num_workers=1,
        config=constant(density=0.25, momentum=0.5),
        density_schedule=StagedDensity(target=0.25, stages=(1.0,), warm_up_epochs=1),
    )
    rank.set_progress(0)
    rank.compress(matrix([1.0, 2, 3, 4]))
    rank.set_progress(1)
    sent = sparse_of(rank.compress(matrix([0.0] * 4)))
    assert (sent.indices.tolist(), sent.values.tolist()) == ([3], [2.0])
    assert flat(rank.residuals()) == [0.5, 1, 1.5, 0]


def test_rejected_elements_come_back_to_the_residual():
    rank = dgc_ranks(1, matrix([0.0] * 4), constant(density=0.5))[0]
    sent = sparse_of(rank.compress(matrix([1.0, 2, 3, 4])))
    rank.give_back(sent.indices[:1], sent.values[:1])
    assert flat(rank.residuals()) == [1, 2, 3, 0]
    rank.give_back(torch.tensor([3, 0, 0]), torch.tensor([4.0, 1, 1]))
    assert flat(rank.residuals()) == [3, 2, 3, 4]


@pytest.mark.parametrize("density", [0.1, 1.0])
def test_a_neutral_payload_changes_no_sum(density):
    parameters = model()
    ranks = dgc_ranks(2, parameters, constant(density=density))
    gradients = random_like(parameters, torch.Generator().manual_seed(5))
    payload = ranks[0].compress(gradients)
    alone, served = (ranks[1].finish(p) for p in (payload, add_up([payload, ranks[1].neutral()])))
    # Momentum on the dense part moves on between the two; the compressed part has none.
    assert all(alone[name].equal(served[name]) for name in ("conv.weight", "fc.weight"))


def test_finish_accepts_a_sparse_part_that_the_schedule_made_dense():
    parameters = model()
    ranks = dgc_ranks(2, parameters, constant(density=0.1))
    payload = ranks[0].compress(random_like(parameters, torch.Generator().manual_seed(5)))
    filled = BundlePayload([DensePayload(sparse_of(payload).to_dense()), parts_of(payload)[1]])
    found, expected = ranks[0].finish(filled), ranks[1].finish(payload)
    assert all(found[name].equal(expected[name]) for name in parameters)


def test_finish_leaves_the_payload_alone():
    parameters = model()
    for config in (constant(density=0.1), constant(density=1)):
        rank = dgc_ranks(1, parameters, config)[0]
        payload = rank.compress(random_like(parameters, torch.Generator().manual_seed(5)))
        first = rank.finish(payload)
        for update in first.values():
            update.fill_(math.nan)
        assert all(update.isfinite().all() for update in rank.finish(payload).values())


def test_compress_leaves_the_gradients_alone():
    parameters = model()
    gradients = random_like(parameters, torch.Generator().manual_seed(5))
    copies = {name: gradient.clone() for name, gradient in gradients.items()}
    dgc_ranks(1, parameters, constant(density=1, clip_norm=0.1))[0].compress(gradients)
    assert all(gradients[name].equal(copies[name]) for name in copies)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
@pytest.mark.parametrize("name", ["fc.weight", "fc.bias"])
def test_a_gradient_that_is_not_finite_is_refused_and_changes_nothing(bad, clip_norm, name):
    parameters = model()
    rank = dgc_ranks(1, parameters, constant(density=0.1, clip_norm=clip_norm))[0]
    gradients = random_like(parameters, torch.Generator().manual_seed(5))
    rank.compress(gradients)
    before = {n: v.clone() for n, v in (rank.residuals() | rank.velocities()).items()}
    gradients[name].view(-1)[-1] = bad
    with pytest.raises(NonFiniteGradientError, match=f"gradient of '{name}' holds NaN or inf"):
        rank.compress(gradients)
    assert all(v.equal(before[n]) for n, v in (rank.residuals() | rank.velocities()).items())
    assert rank.step == 1


def test_channels_last_gradients_are_read_by_position_not_by_memory():
    parameters = {"w": torch.zeros(2, 3, 4, 5)}
    gradient = torch.arange(120.0).view(2, 3, 4, 5).to(memory_format=torch.channels_last)
    payload = dgc_ranks(1, parameters, constant(density=1))[0].compress({"w": gradient})
    assert buffer_of(payload).equal(torch.arange(120.0))


def test_an_empty_tensor_is_no_trouble():
    parameters = {"none": torch.zeros(0, 3), "w": torch.zeros(2, 2), "bias": torch.zeros(0)}
    rank = dgc_ranks(1, parameters, constant(density=0.25, clip_norm=1.0))[0]
    updates = step([rank], [{n: torch.ones_like(p) for n, p in parameters.items()}])[0]
    assert {n: tuple(u.shape) for n, u in updates.items()} == {
        "none": (0, 3),
        "w": (2, 2),
        "bias": (0,),
    }


def test_a_selection_of_ones_own_decides_what_is_sent():
    def last_of_each_layer(residual, layout, density):
        return torch.tensor([end - 1 for end in layout.offsets[1:]])

    parameters = model()
    rank = DGC(parameters, num_workers=1, config=constant(), select=last_of_each_layer)
    sent = sparse_of(rank.compress(random_like(parameters, torch.Generator().manual_seed(5))))
    assert sent.indices.tolist() == [107, 167]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_sends_what_the_cpu_sends():
    parameters = model()
    on_gpu = {name: p.detach().cuda() for name, p in parameters.items()}
    ranks = [dgc_ranks(1, p, constant(density=0.1))[0] for p in (parameters, on_gpu)]
    generator = torch.Generator().manual_seed(5)
    for _ in range(5):
        gradients = random_like(parameters, generator)
        expected = sparse_of(ranks[0].compress(gradients))
        found = sparse_of(ranks[1].compress({n: g.cuda() for n, g in gradients.items()}))
        assert isinstance(found, SparsePayload)
        assert found.indices.cpu().equal(expected.indices)
        torch.testing.assert_close(found.values.cpu(), expected.values)
