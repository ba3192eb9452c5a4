"""TernGrad and random-k: unbiased, small on the wire as claimed, and SGD on what they send."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dgc_topo.compression.after_sum import SGDSettings
from dgc_topo.compression.compressor import Compressor
from dgc_topo.compression.dense import Dense
from dgc_topo.compression.gradients import NonFiniteGradientError
from dgc_topo.compression.random_k import RandomK
from dgc_topo.compression.terngrad import TernGrad
from dgc_topo.payload import Arrival, BundlePayload, DensePayload, Payload, TernaryPayload
from dgc_topo.runtime import run_in_process
from dgc_topo.schedule import Transfer
from dgc_topo.topology import load_topology
from tests.compression.workers import apply, model, random_like

DRAWS = 4000
SIGMAS = 6.0  # of the mean of DRAWS draws; one element in 1e9 is further off
SHAPES = {"w": (3, 5), "b": (4,), "v": (2, 3, 2)}
PLAIN = SGDSettings(momentum=0.0)
TOPOLOGIES = ("ring", "butterfly", "mesh", "tree", "parameter-server", "sharded-parameter-server")


def whole(src: int, dst: int, keep=Fraction(1), weight=Fraction(1)) -> Transfer:
    """Return the transfer of a buffer of one chunk."""
    return Transfer(src, dst, 0, 1, keep, weight)


def ternary_of(payload: Payload) -> TernaryPayload:
    assert isinstance(payload, BundlePayload)
    (ternary, _) = payload.parts
    assert isinstance(ternary, TernaryPayload)
    return ternary


def mean_update(rank: Compressor, gradients) -> dict[str, torch.Tensor]:
    total = {name: torch.zeros_like(g, dtype=torch.float64) for name, g in gradients.items()}
    for _ in range(DRAWS):
        for name, update in rank.finish(rank.compress(gradients)).items():
            total[name] += update
    return {name: (value / DRAWS).to(torch.float32) for name, value in total.items()}


@pytest.mark.parametrize("seed", [1, 2])
def test_terngrad_without_clipping_is_unbiased_with_the_variance_of_its_law(seed):
    """E = g; the variance of s*sign(g)*Bernoulli(abs(g)/s) is abs(g) * (s - abs(g))."""
    parameters = model(0, SHAPES)
    gradients = random_like(parameters, torch.Generator().manual_seed(seed))
    rank = TernGrad(parameters, rank=0, sgd=PLAIN, clip_sigmas=None, seed=seed)
    mean = mean_update(rank, gradients)
    for name in ("w", "v"):
        magnitude = gradients[name].abs()
        deviation = (magnitude * (magnitude.max() - magnitude) / DRAWS).sqrt()
        error = (mean[name] - gradients[name]).abs()
        assert bool((error <= SIGMAS * deviation + 1e-4 * magnitude.max()).all())
    torch.testing.assert_close(mean["b"], gradients["b"])


@pytest.mark.parametrize("density", [0.1, 0.4])
def test_random_k_is_unbiased_with_the_variance_of_its_law(density):
    """An element is n/k * g with probability k/n, else 0: the variance is g^2 * (n/k - 1)."""
    parameters = model(0, SHAPES)
    gradients = random_like(parameters, torch.Generator().manual_seed(3))
    rank = RandomK(parameters, density=density, sgd=PLAIN)
    mean = mean_update(rank, gradients)
    for name in ("w", "v"):
        size = gradients[name].numel()
        share = max(1, round(density * size)) / size
        deviation = gradients[name].abs() * math.sqrt((1 / share - 1) / DRAWS)
        assert bool(((mean[name] - gradients[name]).abs() <= SIGMAS * deviation + 1e-4).all())
    torch.testing.assert_close(mean["b"], gradients["b"])


@given(
    values=st.lists(st.floats(-1e3, 1e3, width=32), min_size=4, max_size=40),
    seed=st.integers(0, 99),
)
@example(values=[1.401298464324817e-45, 0.0, 0.0, 0.0], seed=0)
@settings(max_examples=100)
def test_terngrad_sends_zero_or_the_scale_with_the_sign_of_the_element(values, seed):
    gradient = torch.tensor(values).view(1, -1)
    rank = TernGrad({"w": torch.zeros_like(gradient)}, rank=0, clip_sigmas=None, seed=seed)
    sent = ternary_of(rank.compress({"w": gradient})).to_dense().view(1, -1)
    scale = gradient.abs().max()
    kept = sent != 0
    assert bool((sent[kept] == gradient.sign()[kept] * scale).all())
    assert bool(kept[gradient.abs() == scale].all()) or scale == 0  # probability 1
    assert not bool(kept[gradient == 0].any())


def test_terngrad_clips_each_layer_at_its_deviations():
    gradient = torch.zeros(1, 1000)
    gradient[0, 0] = 100.0
    rank = TernGrad({"w": torch.zeros_like(gradient)}, rank=0, clip_sigmas=2.5)
    sent = ternary_of(rank.compress({"w": gradient})).to_dense()
    assert float(sent.max()) == pytest.approx(2.5 * 100 / math.sqrt(1000), rel=1e-5)


def test_terngrad_clips_tiny_gradients_like_others():
    """Their squares are 0 in float32."""
    gradient = torch.randn((1, 1000), generator=torch.Generator().manual_seed(3))
    scales = []
    for factor in (1.0, 2.0**-100):
        rank = TernGrad({"w": torch.zeros_like(gradient)}, rank=0, clip_sigmas=2.5)
        sent = ternary_of(rank.compress({"w": factor * gradient})).to_dense()
        scales.append(float(sent.max()) / factor)
    assert scales[0] == pytest.approx(scales[1], rel=1e-5)


def test_a_ternary_message_of_no_ranks_adds_nothing():
    payload = TernaryPayload({}, (0, 8), torch.device("cpu"))
    payload.cut(1)
    payload.merge([Arrival(whole(1, 0), payload.pack(0, 1))], 0)
    payload.finish()
    assert not bool(payload.to_dense().any())


def test_terngrad_takes_two_bits_per_element_and_a_scale_per_layer():
    parameters = {"w": torch.zeros(100, 101), "v": torch.zeros(3, 3), "b": torch.zeros(7)}
    rank = TernGrad(parameters, rank=0)
    payload = rank.compress(parameters)
    codes = math.ceil((100 * 101 + 9) / 4)
    words = 1 + 1 + 2  # how many ranks, which, and two scales
    assert payload.encoded_bytes() == codes + 4 * words + 4 * 7
    ternary = ternary_of(payload)
    ternary.cut(1)
    assert ternary.pack(0, 1).numel() == codes + 4 * words


def test_random_k_sends_values_only():
    parameters = {"w": torch.zeros(100, 100), "b": torch.zeros(7)}
    rank = RandomK(parameters, density=0.01)
    payload = rank.compress(parameters)
    assert payload.encoded_bytes() == 4 * (100 + 7)
    assert all(isinstance(part, DensePayload) for part in payload.parts)


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("world_size", [1, 2, 5, 8])
def test_every_topology_sums_what_the_ranks_sent_and_all_agree(topology, world_size):
    """The sum is that of the ranks' own payloads, in rank order, bit for bit with TernGrad."""
    parameters = model()
    makers = (
        lambda rank: TernGrad(parameters, rank=rank, seed=5),
        lambda rank: RandomK(parameters, density=0.2, seed=5),
    )
    for make in makers:
        ranks = [make(rank) for rank in range(world_size)]
        generator = torch.Generator().manual_seed(world_size)
        payloads = [r.compress(random_like(parameters, generator)) for r in ranks]
        expected = [part_sum([p.parts[i] for p in payloads]) for i in range(2)]
        schedule = load_topology(topology).schedule(world_size)
        run_in_process(schedule, payloads)
        for payload in payloads:
            found = [dense_of(part) for part in payload.parts]
            torch.testing.assert_close(found, expected)
            if isinstance(payload.parts[0], TernaryPayload):
                assert torch.equal(found[0], expected[0])
        updates = [rank.finish(p) for rank, p in zip(ranks, payloads, strict=True)]
        for update in updates:
            assert all(update[name].equal(updates[0][name]) for name in update)


def dense_of(part: Payload) -> torch.Tensor:
    if isinstance(part, TernaryPayload):
        return part.to_dense()
    assert isinstance(part, DensePayload)
    return part.buffer.clone()


def part_sum(parts) -> torch.Tensor:
    total = torch.zeros_like(dense_of(parts[0]))
    for part in parts:
        total += dense_of(part)
    return total


def test_a_server_that_does_not_train_adds_nothing():
    parameters = model()
    schedule = load_topology("parameter-server", {"server": "dedicated"}).schedule(3)
    for make in (
        lambda r: TernGrad(parameters, rank=r),
        lambda r: RandomK(parameters, density=0.3),
    ):
        ranks = [make(rank) for rank in range(3)]
        gradients = random_like(parameters, torch.Generator().manual_seed(1))
        payloads = [ranks[0].compress(gradients), ranks[1].compress(gradients), ranks[2].neutral()]
        expected = [part_sum([p.parts[i] for p in payloads[:2]]) for i in range(2)]
        run_in_process(schedule, payloads)
        for payload in payloads:
            torch.testing.assert_close([dense_of(part) for part in payload.parts], expected)


def test_at_density_1_random_k_is_dense_sgd():
    ours, theirs = model(), model()
    random_k = RandomK(
        ours,
        density=1.0,
        sgd=SGDSettings(momentum=0.9, nesterov=True, weight_decay=0.01, clip_norm=0.5),
    )
    dense = Dense(theirs, momentum=0.9, nesterov=True, weight_decay=0.01, clip_norm=0.5)
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        gradients = random_like(ours, generator)
        pairs: list[tuple[Compressor, dict[str, torch.Tensor]]] = [
            (random_k, ours),
            (dense, theirs),
        ]
        for rank, parameters in pairs:
            apply(parameters, rank.finish(rank.compress(gradients)), lr=0.1)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name])


def test_other_ranks_and_steps_draw_other_numbers_and_the_same_ones_again():
    gradients = random_like(model(), torch.Generator().manual_seed(1))

    def codes(rank: TernGrad):
        (mine,) = ternary_of(rank.compress(gradients)).given.values()
        return mine.codes

    first, same, other = (TernGrad(model(), rank=r, seed=1) for r in (0, 0, 1))
    now, later = codes(first), codes(first)
    assert codes(same).equal(now)
    assert codes(same).equal(later)
    assert not now.equal(later)
    assert not codes(other).equal(now)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (b"", "message of 0 bytes"),
        (b"\x01\x00\x00\x00", "message of 4 bytes for 1 ranks"),
        (b"\xff\xff\xff\xff" + bytes(20), "for -1 ranks"),
        (b"\x02\x00\x00\x00" + b"\x01\x00\x00\x00" * 2 + bytes(8 + 4), "rising ones"),
        (
            b"\x01\x00\x00\x00\x01\x00\x00\x00\x00\x00\xc0\x7f\x00\x00",
            "not finite",
        ),
    ],
    ids=["empty", "no-ranks", "negative", "ranks-in-disorder", "nan"],
)
def test_a_message_that_does_not_fit_is_refused(message, says):
    payload = TernaryPayload({}, (0, 8), torch.device("cpu"))
    payload.cut(1)
    received = torch.tensor(list(message), dtype=torch.uint8)
    with pytest.raises(ValueError, match=says):
        payload.merge([Arrival(whole(0, 1), received)], 1)


def test_a_rank_that_would_count_twice_and_a_scaled_transfer_are_refused():
    rank = TernGrad(model(), rank=0)
    ternary = ternary_of(rank.compress(model()))
    ternary.cut(1)
    message = ternary.pack(0, 1)
    with pytest.raises(ValueError, match="rank 0 arrived twice"):
        ternary.merge([Arrival(whole(1, 0), message)], 0)
    half = Fraction(1, 2)
    with pytest.raises(ValueError, match="never scaled"):
        ternary.merge([Arrival(whole(1, 0, half, half), message)], 0)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: TernGrad(p, rank=0, clip_sigmas=0.0), "terngrad: clip_sigmas 0.0"),
        (lambda p: RandomK(p, density=0.0), "random-k: density 0.0"),
        (lambda p: SGDSettings(momentum=1.0), "sgd: momentum 1.0"),
        (lambda p: SGDSettings(momentum=0.0, nesterov=True), "0 < momentum < 1 with nesterov"),
        (lambda p: SGDSettings(weight_decay=-1.0), "sgd: weight_decay -1.0"),
        (lambda p: SGDSettings(clip_norm=0.0), "sgd: clip_norm 0.0"),
        (lambda p: RandomK(p, density=0.5).finish(DensePayload(torch.zeros(3))), "bundle of two"),
        (
            lambda p: TernGrad(p, rank=0).finish(RandomK(p, density=0.5).compress(p)),
            "ternary elements",
        ),
    ],
    ids=[
        *("clip_sigmas", "density", "momentum", "nesterov", "weight_decay", "clip_norm"),
        *("not-a-bundle", "another's"),
    ],
)
def test_what_makes_no_sense_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make(model())


@pytest.mark.parametrize(
    "make",
    [lambda p: TernGrad(p, rank=0), lambda p: RandomK(p, density=0.5)],
    ids=["terngrad", "random-k"],
)
def test_a_gradient_that_is_not_finite_is_refused_before_anything_changes(make):
    parameters = model()
    rank = make(parameters)
    gradients = random_like(parameters, torch.Generator())
    gradients["fc.weight"][0, 0] = math.nan
    with pytest.raises(NonFiniteGradientError, match=r"fc\.weight"):
        rank.compress(gradients)
    assert rank.step == 0
    assert "sends 168 elements of 2 tensors" in rank.describe()
