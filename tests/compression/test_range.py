"""Numbers near the end of a type's range: refused by name, or sent later, never made infinite."""

import itertools
import math

import pytest
import torch

from dgc_topo.compression.compressor import Compressor
from dgc_topo.compression.dense import Dense
from dgc_topo.compression.dgc import DGC
from dgc_topo.compression.gradients import NonFiniteGradientError
from dgc_topo.compression.random_k import RandomK
from dgc_topo.compression.terngrad import TernGrad
from dgc_topo.runtime import run_in_process
from dgc_topo.topology import load_topology
from dgc_topo.wire.tensors import largest_addend, to_wire
from tests.compression.workers import buffer_of, constant, parts_of, sparse_of

MAX = torch.finfo(torch.float32).max
WIDE = {"w": torch.zeros(4, 5, dtype=torch.float64), "b": torch.zeros(3, dtype=torch.float64)}

MAKERS = {
    "dgc": lambda p: DGC(p, num_workers=1, config=constant(density=0.1)),
    "dgc-exact": lambda p: DGC(p, num_workers=1, config=constant(density=0.1, selection="exact")),
    "dgc-clipped": lambda p: DGC(p, num_workers=1, config=constant(density=0.1, clip_norm=1.0)),
    "dgc-all": lambda p: DGC(p, num_workers=1, config=constant(density=1.0)),
    "dense": Dense,
    "terngrad": lambda p: TernGrad(p, rank=0, clip_sigmas=None),
    "random-k": lambda p: RandomK(p, density=1.0),
}
every_maker = pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS.keys())


def wide_gradients(value: float, name: str = "w") -> dict[str, torch.Tensor]:
    gradients = {n: torch.full_like(p, 1e-3) for n, p in WIDE.items()}
    gradients[name].view(-1)[-1] = value
    return gradients


def state_of(rank: Compressor) -> list[torch.Tensor]:
    state = [v for v in rank.state_dict().values() if isinstance(v, dict)]
    return [tensor for section in state for tensor in section.values()]


@every_maker
@pytest.mark.parametrize("value", [1e39, -1e39, 1e200, 1.7e308, MAX * (1 + 2**-24)])
@pytest.mark.parametrize("name", ["w", "b"])
def test_a_wide_gradient_that_no_float32_holds_is_refused_like_infinity(maker, value, name):
    rank = maker(WIDE)
    rank.finish(rank.compress(wide_gradients(1.0)))
    before = [tensor.clone() for tensor in state_of(rank)]
    with pytest.raises(NonFiniteGradientError, match=f"gradient of '{name}' holds "):
        rank.compress(wide_gradients(value, name))
    assert all(a.equal(b) for a, b in zip(before, state_of(rank), strict=True))


@every_maker
@pytest.mark.parametrize("value", [1e20, 1e38, -MAX])
def test_a_wide_gradient_that_a_float32_holds_is_sent(maker, value):
    rank = maker(WIDE)
    for given in (value, 1e-3, 1e-3):
        payload = rank.compress(wide_gradients(given))
        assert all(update.isfinite().all() for update in rank.finish(payload).values())
        assert all(tensor.isfinite().all() for tensor in state_of(rank))


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("loaded", [False, True])
def test_a_residual_that_could_overflow_is_refused_before_anything_changes(nesterov, loaded):
    """Of many large elements few are sent: the others would add up to infinity."""
    parameters = {"w": torch.zeros(10, 10, dtype=torch.float64)}
    config = constant(density=0.01, nesterov=nesterov, masking=False)
    rank = DGC(parameters, num_workers=1, config=config)
    huge, small = (torch.full_like(parameters["w"], value) for value in (2e37, 1e-3))
    for _ in range(3):
        rank.compress({"w": huge})
    before = state_of(rank)
    if loaded:
        state = rank.state_dict()
        rank = DGC(parameters, num_workers=1, config=config)
        rank.load_state_dict(state)
    with pytest.raises(NonFiniteGradientError, match="residuals near the end of float32"):  # noqa: PT012
        for _ in range(99):
            before = state_of(rank)
            rank.compress({"w": small})
    assert all(a.equal(b) for a, b in zip(state_of(rank), before, strict=True))
    assert all(tensor.isfinite().all() for tensor in before)


def test_what_random_k_scales_beyond_float32_is_refused():
    rank = RandomK(WIDE, density=0.05)
    with pytest.raises(ValueError, match="random-k: sum times elements over elements sent overfl"):  # noqa: PT012
        for _ in range(200):  # until the one that is large is drawn
            rank.finish(rank.compress(wide_gradients(MAX / 2)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4, 5, 7, 8, 17, 64, 100, 256])
def test_so_many_of_the_largest_addends_stay_in_range_in_any_order(dtype, num_ranks):
    largest = largest_addend(dtype, num_ranks)
    assert largest <= torch.finfo(dtype).max / num_ranks < 2 * largest
    sums = [torch.tensor(n * largest) for n in range(num_ranks + 1)]
    for one, other in itertools.pairwise(sums):
        assert other.to(dtype).to(torch.float32).equal(other)  # no partial sum is rounded
        assert other > one


@pytest.mark.parametrize("topology", ["ring", "butterfly", "parameter-server"])
@pytest.mark.parametrize("density", [0.3, 1.0])
@pytest.mark.parametrize("num_ranks", [2, 5])
def test_sums_on_a_float16_wire_stay_finite_and_lose_nothing(topology, density, num_ranks):
    """The residual keeps what would make the sum infinite, until it is sent."""
    schedule = load_topology(topology).schedule(num_ranks)
    num_workers = len(schedule.contributors)
    parameters = {"w": torch.zeros(3, 4)}
    config = constant(density=density, momentum=0.0, wire_dtype="float16")
    ranks = [DGC(parameters, num_workers=num_workers, config=config) for _ in range(num_ranks)]
    given = torch.linspace(-6e4, 2e4, 12).view(3, 4)
    sent = torch.zeros(3, 4, dtype=torch.float64)
    for number in range(25):
        gradient = {"w": given if number == 0 else torch.zeros(3, 4)}
        payloads = [
            rank.compress(gradient) if place in schedule.contributors else rank.neutral()
            for place, rank in enumerate(ranks)
        ]
        run_in_process(schedule, payloads)
        total = ranks[0].finish(payloads[0])["w"]
        assert total.isfinite().all()
        sent += total
    left = torch.stack([rank.residuals()["w"].double() for rank in ranks]).sum(0)
    assert float(left.abs().max()) < 100
    torch.testing.assert_close(sent + left, num_workers * given.double(), rtol=2e-3, atol=0)


def test_values_that_fit_are_sent_as_ever():
    """Only what exceeds its share of the range waits."""
    values = torch.tensor([1.0, -30000.0, 32736.0, 32800.0, -1e9])
    assert to_wire(values, torch.float16, 2).tolist() == [1, -30000, 32736, 32736, -32736]
    assert to_wire(values, torch.float32, 2) is values


def test_sums_without_a_residual_become_infinite_as_in_any_16_bit_all_reduce():
    """Somebody has to see it: a loss scaler, or whoever looks at the loss."""
    parameters = {"w": torch.zeros(2, 2), "b": torch.zeros(2)}
    gradients = {name: torch.full_like(p, 6e4) for name, p in parameters.items()}
    schedule = load_topology("ring").schedule(2)
    ranks: list[Compressor] = [Dense(parameters, wire_dtype="float16") for _ in range(2)]
    payloads = [rank.compress(gradients) for rank in ranks]
    run_in_process(schedule, payloads)
    assert buffer_of(payloads[0]).isinf().all()
    config = constant(density=0.5, wire_dtype="float16")
    ranks = [DGC(parameters, num_workers=2, config=config) for _ in range(2)]
    payloads = [rank.compress(gradients) for rank in ranks]
    run_in_process(schedule, payloads)
    assert sparse_of(payloads[0]).values.tolist() == [2 * 32736.0] * 2
    assert buffer_of(parts_of(payloads[0])[1]).isinf().all()


def test_infinity_travels_on_where_nothing_is_compressed():
    gradients = wide_gradients(math.inf)
    rank = Dense(WIDE)
    assert rank.finish(rank.compress(gradients))["w"].isinf().sum() == 1
