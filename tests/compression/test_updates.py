"""Compressed updates: nothing is lost, all ranks agree, and what cannot be used is given back."""

import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgc_topo.compression import NonFiniteGradientError, UpdateCompressor, check_optimizer
from dgc_topo.runtime import run_in_process
from dgc_topo.topology import load_topology
from dgc_topo.wire.coding import DENSE_DTYPES
from tests.compression.workers import (
    add_up,
    buffer_of,
    constant,
    dgc_ranks,
    model,
    parts_of,
    random_like,
)
from tests.kernels import needs_gpu

N = 4


def ranks_of(num=N, parameters=None, **options):
    parameters = model() if parameters is None else parameters
    return [UpdateCompressor(parameters, num_workers=num, **options) for _ in range(num)]


def flat(tensors):
    return torch.cat([tensor.detach().flatten() for tensor in tensors.values()]).double()


def state_of(rank):
    """Return all state in a form that can be compared."""
    state = rank.state_dict()
    return state["step"], flat(state["residual"]).tolist()


def left_at(ranks):
    return torch.stack([flat(rank.residuals()) for rank in ranks]).sum(0)


@settings(max_examples=40)
@given(
    num=st.integers(1, 5),
    density=st.sampled_from([0.01, 0.1, 0.6, 1.0]),
    warm_up_steps=st.sampled_from([0, 3]),
    wire_dtype=st.sampled_from(DENSE_DTYPES),
    seed=st.integers(0, 2**31),
    events=st.lists(st.sampled_from(["step", "lost", "absent", "all"]), min_size=1, max_size=7),
)
def test_sent_plus_residuals_is_the_mean_of_all_updates(
    num, density, warm_up_steps, wire_dtype, seed, events
):
    """Also where a sum is lost, a rank stays away, or a step sends everything."""
    ranks = ranks_of(num, density=density, warm_up_steps=warm_up_steps, wire_dtype=wire_dtype)
    generator = torch.Generator().manual_seed(seed)
    made, changed = torch.zeros(178, dtype=torch.float64), torch.zeros(178, dtype=torch.float64)
    for event in events:
        asked = 1.0 if event == "all" else None
        payloads = []
        for place, rank in enumerate(ranks):
            if event == "absent" and place == 0:
                payloads.append(rank.neutral())
                continue
            updates = random_like(model(), generator)
            made += flat(updates) / num
            payloads.append(rank.compress(updates, density=asked))
        if event == "lost":
            for rank in ranks:
                rank.give_back()
        else:
            changed += flat(ranks[0].finish(add_up(payloads)))
        torch.testing.assert_close(changed + left_at(ranks), made, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["ring", "butterfly", "mesh", "tree", "parameter-server"])
@pytest.mark.parametrize("wire_dtype", DENSE_DTYPES)
def test_all_ranks_end_with_the_same_bits_whatever_the_topology(name, wire_dtype):
    ranks, by_hand = (
        ranks_of(5, density=0.05, warm_up_steps=2, wire_dtype=wire_dtype) for _ in "ab"
    )
    schedule = load_topology(name).schedule(5)
    near = {"float32": 1e-6, "float16": 4e-3, "bfloat16": 3e-2}[wire_dtype]
    generator = torch.Generator().manual_seed(3)
    for asked in (None, None, None, 1.0):
        updates = [random_like(model(), generator) for _ in ranks]
        payloads = [r.compress(u, density=asked) for r, u in zip(ranks, updates, strict=True)]
        run_in_process(schedule, payloads)
        changes = [r.finish(p) for r, p in zip(ranks, payloads, strict=True)]
        total = add_up(
            [r.compress(u, density=asked) for r, u in zip(by_hand, updates, strict=True)]
        )
        for parameter, expected in by_hand[0].finish(total).items():
            torch.testing.assert_close(changes[0][parameter], expected, rtol=near, atol=near)
            assert all(other[parameter].equal(changes[0][parameter]) for other in changes)


def test_it_sends_what_dgc_without_momentum_sends():
    """The selection is DGC's own: the residual of a gradient and of an update are one thing."""
    parameters = model()
    ranks = ranks_of(2, density=0.05)
    others = dgc_ranks(2, parameters, constant(density=0.05, momentum=0.0, masking=False))
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        updates = [random_like(parameters, generator) for _ in ranks]
        found = add_up([r.compress(u) for r, u in zip(ranks, updates, strict=True)])
        halves = [{n: u / 2 for n, u in each.items()} for each in updates]
        total = add_up([r.compress(u) for r, u in zip(others, halves, strict=True)])
        expected = others[0].finish(total)
        assert all(c.equal(expected[n]) for n, c in ranks[0].finish(found).items())


def test_sending_all_brings_the_ranks_together():
    """Shared plus ahead is each rank's own parameters; their mean is where all of them meet."""
    parameters = model()
    ranks = ranks_of(density=0.02, look_ahead=1)
    shared = {n: p.detach().clone() for n, p in parameters.items()}
    generator = torch.Generator().manual_seed(2)
    walked = [{n: p.detach().clone() for n, p in parameters.items()} for _ in ranks]
    for asked in (None, None, None, 1.0):
        updates = [random_like(parameters, generator, 0.1) for _ in ranks]
        for own, update in zip(walked, updates, strict=True):
            for n in own:
                own[n] += update[n]
        total = add_up([r.compress(u, density=asked) for r, u in zip(ranks, updates, strict=True)])
        for n, change in ranks[0].finish(total).items():
            shared[n] += change
        mean = {n: torch.stack([own[n] for own in walked]).mean(0) for n in shared}
        heads = [{n: shared[n] + a for n, a in rank.ahead().items()} for rank in ranks]
        for n in shared:  # whatever was sent, the ranks' mean is where their updates lead
            met = torch.stack([head[n] for head in heads]).mean(0)
            torch.testing.assert_close(met, mean[n], rtol=1e-5, atol=1e-5)
    assert all(not residual.any() for r in ranks for residual in r.residuals().values())
    torch.testing.assert_close(shared, mean, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("look_ahead", [0, 0.5])
def test_a_rank_looks_ahead_by_a_share_of_what_it_has_not_sent(look_ahead):
    ranks = ranks_of(2, density=0.1, look_ahead=look_ahead)
    generator = torch.Generator().manual_seed(2)
    add_up([rank.compress(random_like(model(), generator)) for rank in ranks])
    for rank in ranks:
        residuals = rank.residuals()
        assert any(residual.any() for residual in residuals.values())
        for name, ahead in rank.ahead().items():
            assert ahead.equal(2 * look_ahead * residuals[name])


def test_density_falls_in_equal_ratios_and_then_stays():
    [rank] = ranks_of(1, density="1%", warm_up_steps=16)
    densities = []
    for _ in range(18):
        densities.append(rank.density)
        rank.neutral() if len(densities) % 2 else rank.compress(dict.fromkeys(model()))
    ratios = [late / early for early, late in zip(densities[::2], densities[2::2], strict=False)]
    assert ratios == pytest.approx([0.01 ** (1 / 9)] * 8)
    assert densities[0] == pytest.approx(0.01 ** (1 / 9))
    assert densities[-2:] == [0.01, 0.01]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["fc.weight", "fc.bias"])
def test_an_update_that_is_not_finite_changes_nothing(value, name):
    ranks = ranks_of(2, density=0.1)
    generator = torch.Generator().manual_seed(2)
    add_up([rank.compress(random_like(model(), generator)) for rank in ranks])
    before = state_of(ranks[0])
    updates = random_like(model(), generator)
    updates[name].view(-1)[3] = value
    with pytest.raises(NonFiniteGradientError, match=name):
        ranks[0].compress(updates)
    assert state_of(ranks[0]) == before
    total = add_up([ranks[0].neutral(), ranks[1].compress(random_like(model(), generator))])
    changes = ranks[1].finish(total)
    assert all(change.isfinite().all() for change in changes.values())


@pytest.mark.parametrize("density", [0.1, 1.0])
def test_a_sum_that_is_not_finite_is_refused_and_given_back_once(density):
    [rank] = ranks_of(1, density=density)
    updates = random_like(model(), torch.Generator().manual_seed(2))
    payload = rank.compress(updates)
    total = add_up([payload, payload])
    dense = parts_of(total)[1] if density < 1 else total
    buffer_of(dense)[-1] = math.inf
    with pytest.raises(NonFiniteGradientError, match="the sum over the ranks"):
        rank.finish(total)
    rank.give_back()
    rank.give_back()
    assert all(residual.equal(updates[name]) for name, residual in rank.residuals().items())


@pytest.mark.parametrize("name", ["ring", "tree"])
def test_what_is_given_back_is_what_was_sent_though_a_run_sums_in_place(name):
    ranks = ranks_of(3, density=1.0)
    generator = torch.Generator().manual_seed(2)
    updates = [random_like(model(), generator) for _ in ranks]
    payloads = [rank.compress(update) for rank, update in zip(ranks, updates, strict=True)]
    run_in_process(load_topology(name).schedule(3), payloads)
    for rank, update in zip(ranks, updates, strict=True):
        rank.give_back()
        assert all(residual.equal(update[n] / 3) for n, residual in rank.residuals().items())


def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit():
    def run(ranks, steps):
        found = []
        for number in steps:
            generator = torch.Generator().manual_seed(number)
            updates = [random_like(model(), generator) for _ in ranks]
            total = add_up([r.compress(u) for r, u in zip(ranks, updates, strict=True)])
            found.append(flat(ranks[0].finish(total)))
        return found

    options = {"density": 0.05, "warm_up_steps": 5, "wire_dtype": "bfloat16"}
    unbroken, first, second = (ranks_of(2, **options) for _ in range(3))
    expected = run(unbroken, range(9))[4:]
    run(first, range(4))
    saved = [pickle.dumps(rank.state_dict()) for rank in first]
    run(first, range(4, 6))
    for rank, state in zip(second, saved, strict=True):
        rank.load_state_dict(pickle.loads(state))
    found = run(second, range(4, 9))
    assert all(one.equal(other) for one, other in zip(found, expected, strict=True))


def test_a_snapshot_is_plain_and_one_of_another_kind_is_refused():
    [rank] = ranks_of(1)
    rank.compress(random_like(model(), torch.Generator().manual_seed(2)))
    state = rank.state_dict()
    assert list(state) == ["compressor", "step", "residual"]
    assert list(state["residual"]) == list(model())
    other = {**state, "compressor": "dgc"}
    fewer = {**state, "residual": {"fc.weight": torch.zeros(5, 12)}}
    before = state_of(rank)
    for wrong in (other, fewer, {**state, "step": -1}):
        with pytest.raises(ValueError, match=r"^updates state"):
            rank.load_state_dict(wrong)
    assert state_of(rank) == before


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"density": 0}, "density 0"),
        ({"density": "200%"}, "density"),
        ({"num_workers": 0}, "updates: num_workers 0"),
        ({"num_workers": None}, "updates: num_workers None and no process group"),
        ({"warm_up_steps": -1}, "updates: warm_up_steps -1"),
        ({"look_ahead": 1.5}, "updates: look_ahead 1.5, expected 0 to 1"),
        ({"wire_dtype": "int7"}, "wire_dtype 'int7'"),
    ],
)
def test_wrong_settings_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        UpdateCompressor(model(), **{"num_workers": 2, **options})


def test_wrong_densities_of_a_step_are_refused_before_anything_changes():
    [rank] = ranks_of(1)
    updates = random_like(model(), torch.Generator().manual_seed(2))
    for density in (0, 1.5, math.nan, "1"):
        with pytest.raises(ValueError, match="updates: density"):
            rank.compress(updates, density=density)
    assert rank.step == 0
    assert not left_at([rank]).any()


def test_any_optimizer_may_keep_its_momentum():
    parameters = model()
    [rank] = ranks_of(1, parameters=parameters)
    check_optimizer(torch.optim.AdamW(parameters.values(), lr=1e-3), rank)
    check_optimizer(torch.optim.SGD(parameters.values(), lr=0.1, momentum=0.9), rank)


def test_ranks_that_are_set_differently_are_told_apart():
    one, other = ranks_of(1, density=0.1)[0], ranks_of(1, density=0.2)[0]
    assert one.neutral().made_with != other.neutral().made_with


def test_it_describes_what_is_compressed():
    [rank] = ranks_of(1, density=0.05)
    assert (
        repr(rank)
        == "UpdateCompressor(168 of 178 elements compressed, density=0.05, num_workers=1)"
    )
    assert rank.describe().startswith("updates at density 0.05 compresses 2 of 5 tensors")


@pytest.mark.gpu
@needs_gpu
def test_a_gpu_sends_what_a_cpu_sends_bit_for_bit():
    parameters = {"a": torch.zeros(300, 200), "b": torch.zeros(7), "c": torch.zeros(90, 70)}
    on_gpu = {name: parameter.cuda() for name, parameter in parameters.items()}
    cpu, gpu = (UpdateCompressor(p, num_workers=2, density=0.01) for p in (parameters, on_gpu))
    generator = torch.Generator().manual_seed(1)
    for _ in range(10):
        updates = random_like(parameters, generator)
        expected = cpu.finish(cpu.compress(updates))
        found = gpu.finish(gpu.compress({n: u.cuda() for n, u in updates.items()}))
        assert all(found[name].cpu().equal(expected[name]) for name in parameters)
