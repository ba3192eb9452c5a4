"""Thresholds find what exact top-k finds, bit for bit, however badly they are guessed."""

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgc_topo.compression import layout, pool, threshold
from dgc_topo.compression.accumulation import Accumulation
from dgc_topo.compression.dgc import DGC
from dgc_topo.compression.layout import FlatLayout, Groups
from dgc_topo.compression.pool import Pool
from dgc_topo.compression.selection import top_k
from dgc_topo.compression.threshold import Goal, Tail, Threshold, sample_rank, sample_stride
from dgc_topo.payload.largest import trim
from tests.compression.workers import constant, random_like, sparse_of

CPU = torch.device("cpu")
tied_values = st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.0, 0.5, 1.0, 2.0])
layers_of_values = st.lists(st.lists(tied_values, max_size=30), min_size=1, max_size=5)


@pytest.fixture(params=[7, 1 << 18], ids=lambda size: f"tile-{size}")
def small_parts(request, monkeypatch):
    """Make tiles, the room of pools and the least sample so small that all of them matter."""
    monkeypatch.setattr(layout, "CPU_TILE", request.param)
    if request.param < 1 << 18:
        monkeypatch.setattr(threshold, "_SMALL", 4)
        monkeypatch.setattr(threshold, "_SAMPLE", 0.3)
        monkeypatch.setattr(threshold, "_SAMPLED_AT_ONCE", 5)
        monkeypatch.setattr(pool, "_ROOM", 0)


def groups_of(layers: list[list[float]]) -> Groups:
    ends = torch.tensor([0, *map(len, layers)]).cumsum(0).tolist()
    return Groups(tuple(ends))


@settings(max_examples=40)
@given(layers=layers_of_values, density=st.floats(0.001, 0.999))
@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("reuse", [False, True])
def test_any_step_finds_exactly_the_largest_with_ties_to_the_lower_index(reuse, layers, density):
    groups = groups_of(layers)
    found = Threshold(groups, CPU, reuse=reuse)
    residual = torch.tensor([value for layer in layers for value in layer], dtype=torch.float32)
    # Shrinking lets too few pass the last step's thresholds, growing lets too many.
    for factor in (1.0, 0.1, 10.0, 0.0, 1.0):
        now = residual.roll(int(10 * factor)) * factor
        watching = found.begin(density)
        if watching is not None:
            for start in range(0, len(now), 7):
                watching.watch(start, now[start : start + 7])
        assert found.pick(now, density).equal(top_k(now, groups, density))


@settings(max_examples=40)
@given(layers=layers_of_values, density=st.floats(0.001, 0.999), rank=st.integers(1, 3))
@pytest.mark.parametrize("reuse", [False, True])
def test_a_misleading_sample_costs_time_but_no_element(reuse, layers, density, rank):
    groups = groups_of(layers)
    residual = torch.tensor([value for layer in layers for value in layer], dtype=torch.float32)
    found = Threshold(groups, CPU, reuse=reuse)
    with mock.patch.object(threshold, "sample_rank", return_value=rank):  # too high a threshold
        for factor in (1.0, 0.01, 1.0):
            now = residual * factor
            watching = found.begin(density)
            if watching is not None and len(now):
                watching.watch(0, now)
            assert found.pick(now, density).equal(top_k(now, groups, density))


@settings(max_examples=40)
@given(
    layers=layers_of_values,
    density=st.floats(0.001, 0.999),
    limits=st.lists(st.sampled_from([0.0, 0.4, 1.5, 3.0]), min_size=5, max_size=5),
    room=st.integers(-40, 20),
)
def test_a_pool_keeps_the_largest_that_exceed_its_thresholds(layers, density, limits, room):
    groups = groups_of(layers)
    residual = torch.tensor([value for layer in layers for value in layer], dtype=torch.float32)
    thresholds = torch.tensor(limits[: groups.num_groups])
    sizes = torch.tensor(groups.offsets).diff()
    passing = torch.where(residual.abs() > thresholds.repeat_interleave(sizes), residual, 0.0)
    with mock.patch.object(pool, "_ROOM", room):  # below 0: trimmed after almost every tile
        gathered = Pool(groups, groups.counts(density), thresholds)
        for start in range(0, len(residual), 4):
            gathered.watch(start, residual[start : start + 4])
        chosen = gathered.choose()
    assert chosen.indices.equal(top_k(passing, groups, density))
    for group, count in enumerate(groups.counts(density)):
        start, stop = groups.offsets[group : group + 2]
        there = int(passing[start:stop].count_nonzero())
        assert (int(chosen.found[group]) >= count) == (there >= count)
        assert int(chosen.found[group]) <= there
        kept = chosen.indices[(chosen.indices >= start) & (chosen.indices < stop)]
        full = count and there >= count
        assert chosen.smallest[group] == (residual[kept].abs().min() if full else 0)


@pytest.mark.parametrize("scope", ["layer", "model"])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.usefixtures("small_parts")
def test_training_with_thresholds_is_exact_training_bit_for_bit(scope, nesterov):
    shapes = {"a": (30, 20), "b": (3, 3), "c": (7,), "d": (0, 4), "e": (50, 11), "f": (1, 1)}
    parameters = {name: torch.randn(shape) for name, shape in shapes.items()}
    ranks = [
        DGC(
            parameters,
            num_workers=2,
            config=constant(
                None, selection=rule, scope=scope, density=0.02, nesterov=nesterov, clip_norm=1.0
            ),
        )
        for rule in ("exact", "sampled", "reused")
    ]
    generator = torch.Generator().manual_seed(4)
    for step in range(20):
        gradients = random_like(parameters, generator, scale=10.0 ** (step % 7 - 3))
        gradients["b"] = gradients["b"].round()  # ties, and zeros
        sent = [sparse_of(rank.compress(gradients)) for rank in ranks]
        assert all(other.indices.equal(sent[0].indices) for other in sent[1:])
        assert all(other.values.equal(sent[0].values) for other in sent[1:])
        for rank, payload in zip(ranks, sent, strict=True):
            rank.give_back(payload.indices[::3], payload.values[::3])
    for rank in ranks[1:]:
        for name, residual in ranks[0].residuals().items():
            assert rank.residuals()[name].equal(residual)
            assert rank.velocities()[name].equal(ranks[0].velocities()[name])


def test_the_last_threshold_lets_few_more_through_than_are_sent():
    # What the controller is for: in steady training hardly any group is searched twice, and the
    # candidates are a small multiple of what is sent.
    groups = Groups((0, 20_000, 20_500, 60_000))
    found = Threshold(groups, CPU)
    generator = torch.Generator().manual_seed(0)
    short, candidates = 0, []
    residual = torch.zeros(60_000)
    for step in range(60):
        residual += torch.randn(60_000, generator=generator)
        watching = found.begin(0.01)
        if isinstance(watching, Pool):
            watching.watch(0, residual)
            chosen = watching.choose()
            if step >= 20:
                short += int((chosen.found < torch.tensor(groups.counts(0.01))).sum())
                candidates.append(int(chosen.found.sum()))
        residual[found.pick(residual, 0.01)] = 0
    assert short <= 0.05 * 3 * len(candidates)
    assert max(candidates) < 4 * 600


def test_a_sample_of_a_large_group_lets_enough_through_and_not_many_more():
    residual = torch.randn(1_000_000, generator=torch.Generator().manual_seed(1))
    stride = sample_stride(1_000_000)
    rank = sample_rank(1000, stride)
    assert 0.001 <= 1 / stride <= 0.01  # the paper's 0.1 to 1 %
    for step in range(10):
        sample = residual[step::stride].abs()
        limit = sample.topk(rank).values[-1]
        assert 1000 <= int((residual.abs() >= limit).sum()) < 6000


def test_trimming_has_no_bias_of_position():
    # A threshold that ten times as many pass, at almost equal magnitude: whoever kept the first of
    # them would never send from the last nine tenths.
    generator = torch.Generator().manual_seed(0)
    groups = Groups((0, 1000))
    counts = torch.zeros(1000)
    for _ in range(400):
        residual = 1 + 1e-3 * torch.randn(1000, generator=generator)
        gathered = Pool(groups, groups.counts(0.1), torch.tensor([0.5]))
        gathered.watch(0, residual)
        counts[gathered.choose().indices] += 1
    tenths = counts.view(10, 100).sum(1) / counts.sum()
    # 4000 elements expected per tenth; five standard deviations are 8 %.
    assert ((tenths - 0.1).abs() < 0.008).all()


def test_trimming_nothing_keeps_nothing():
    trimmed = trim(torch.empty(0), torch.tensor([0, 0]), torch.tensor([3, 0]))
    assert trimmed.places.tolist() == []
    assert trimmed.sizes.tolist() == [0, 0]
    assert trimmed.smallest.tolist() == [0.0, 0.0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_finds_the_same_by_thresholds():
    residual = torch.randint(-9, 9, (300_000,), generator=torch.Generator().manual_seed(2)).float()
    groups = Groups((0, 100_000, 100_010, 300_000))
    found = Threshold(groups, torch.device("cuda"))
    for _ in range(3):
        watching = found.begin(0.01)
        if watching is not None:
            watching.watch(0, residual.cuda())
        picked = found.pick(residual.cuda(), 0.01)
        assert picked.cpu().equal(top_k(residual, groups, 0.01))


def test_samples_are_the_same_however_many_groups_are_sampled_at_a_time(monkeypatch):
    groups = Groups((0, 700, 700, 5000, 5003, 9000))
    residual = torch.randn(9000, generator=torch.Generator().manual_seed(3))
    found = Threshold(groups, CPU)
    found.last_smallest(0.01)
    at_once = found._sampled(residual, range(5))
    assert (at_once > 0).tolist() == [True, False, True, True, True]  # one is empty
    monkeypatch.setattr(threshold, "_SAMPLED_AT_ONCE", 600)
    assert list(found._batches(range(5))) == [[0], [1, 2, 3], [4]]
    assert found._sampled(residual, range(5)).equal(at_once)
    assert found._sampled(residual, [3, 4])[3:].equal(at_once[3:])


def test_candidates_stay_few_however_long_residuals_wait():
    """Just below what is sent, residuals get dense; thresholds by feedback swung from 0 to 50."""
    generator = torch.Generator().manual_seed(4)
    shapes = {"one": (400, 400), "two": (100, 60)}
    layout = FlatLayout.of({name: torch.empty(shape) for name, shape in shapes.items()})
    accumulation = Accumulation(layout, CPU, constant())
    threshold = Threshold(Groups.per_layer(layout), CPU)
    drift = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    ratios = []
    for _ in range(250):
        noise = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        gradients = {name: noise[name] + 0.3 * drift[name] for name in shapes}
        pool = threshold.begin(0.002)
        accumulation.add((gradients, 1.0), pool=pool)
        if isinstance(pool, Pool):
            ratios.append(pool.choose().found / torch.tensor(threshold.counts))
        accumulation.take(threshold.pick(accumulation.residual, 0.002))
    settled = torch.stack(ratios[20:])
    assert bool((settled[:, 0] >= 1).all())
    assert float(settled[:, 0].max()) < 2.5
    assert float((settled[:, 1] < 1).float().mean()) < 0.01
    assert float(settled[:, 1].mean()) < 4


@given(width=st.floats(0.002, 0.15), count=st.integers(1, 10_000), found=st.floats(1.3, 30))
def test_the_tail_of_a_power_law_is_read_off(width, count, found):
    """Of magnitudes that number ``count * x ** (-1 / width)`` above x."""
    tail, goal = Tail.of(1, CPU), Goal(least=2.0, most=2.0, spare=0.0, root=0.0)
    for _ in range(12):  # the slope is averaged with what was known before
        tail.slack.fill_(found**-width)
        ones = torch.ones(1)
        tail.learn(ones, ones, found * count * ones, torch.tensor([count]), goal)
    assert float(tail.width) == pytest.approx(width, rel=0.02)
    assert float(tail.slack) == pytest.approx(2.0**-width, rel=0.01)


def test_a_tail_that_grows_is_expected_to_grow_on():
    tail, goal = Tail.of(2, CPU), Goal(least=1.0, most=1.0, spare=0.0, root=0.0)
    before, now = torch.tensor([4.0, 4.0]), torch.tensor([5.0, 4.0])
    tail.learn(before, now, torch.tensor([100, 100]), torch.tensor([100, 100]), goal)
    assert tail.slack.tolist() == pytest.approx([1.2, 1.0])  # to 6 and to 4
