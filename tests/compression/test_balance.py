"""Balanced chunks: equal shares of what earlier sums held, agreed on without a message."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dgc_topo.compression.balance import Balance, cell_size, num_cells
from dgc_topo.compression.dgc import DGC
from dgc_topo.compression.layout import FlatLayout
from dgc_topo.compression.resharding import state_for
from dgc_topo.payload import Entries
from dgc_topo.payload.shares import Shares
from dgc_topo.runtime import run_in_process
from dgc_topo.topology import load_topology
from tests.compression.test_mass import flat
from tests.compression.workers import constant, dgc_ranks, sparse_of
from tests.strategies import ALL_REDUCE, examples, topologies

PARAMETERS = {"hot": torch.zeros(20, 10), "cold": torch.zeros(60, 30)}


@examples(60)
@given(
    cells=st.lists(st.tuples(st.integers(1, 50), st.integers(1, 10**12)), min_size=1, max_size=30),
    num_chunks=st.integers(1, 40),
)
def test_chunks_have_equal_shares_to_an_element(cells, num_chunks):
    sizes, weights = (np.array(column) for column in zip(*cells, strict=True))
    made = Shares(np.r_[0, np.cumsum(sizes)], weights)
    length = int(sizes.sum())
    bounds = made.bounds(length, num_chunks)
    assert (bounds[0], bounds[-1], len(bounds)) == (0, length, num_chunks + 1)
    assert (np.diff(bounds) >= 0).all()
    shares = np.diff(made.before(np.array(bounds))) / weights.sum()
    heaviest = (weights / sizes).max() / weights.sum()  # of one element
    assert np.abs(shares - 1 / num_chunks).max() <= heaviest + 1e-9


@pytest.mark.parametrize(
    ("edges", "weights"),
    [([0, 3], [0]), ([1, 3], [1]), ([0, 3, 3], [1, 1]), ([0, 3], [1, 1]), ([], [])],
)
def test_shares_are_above_0_everywhere(edges, weights):
    with pytest.raises(ValueError, match=r"^shares: \d weights for \d edges, expected edges that"):
        Shares(np.array(edges, np.int64), np.array(weights, np.int64))


def test_shares_are_for_one_length():
    with pytest.raises(ValueError, match=r"^shares: for 3 elements, expected 4"):
        Shares(np.array([0, 3]), np.array([1])).bounds(4, 2)


@pytest.mark.parametrize("num_elements", [0, 1, 16, 17, 131_072, 131_073, 10**9])
def test_cells_are_few(num_elements):
    assert num_cells(num_elements) <= 8192
    assert cell_size(num_elements) >= 16
    assert num_cells(num_elements) == -(-num_elements // cell_size(num_elements))


def test_later_sums_count_more():
    layout = FlatLayout.of({"w": torch.zeros(4, 16)})
    balance = Balance(layout)
    assert balance.shares() is None
    for indices in ([0, 1, 2, 3], [50, 51, 52, 53], [50, 51, 52, 60]):
        balance.note(Entries(torch.tensor(indices), torch.ones(4)))
    first, _, _, last = balance.views()["w"].tolist()
    assert last == pytest.approx(6 * first)


def skewed(generator, hot):
    """A gradient whose large elements are nearly all in one tensor."""
    return {
        name: torch.randn(p.shape, generator=generator) * (hot if name == "hot" else 1.0)
        for name, p in PARAMETERS.items()
    }


def a_run(config, schedule, steps=5):
    """Train; return the ranks, all that was applied, all gradients, and bytes sent at last."""
    n = schedule.world_size
    ranks = dgc_ranks(n, PARAMETERS, config)
    generator = torch.Generator().manual_seed(2)
    applied = everything = torch.zeros(2000, dtype=torch.float64)
    for _ in range(steps):
        gradients = [skewed(generator, 5.0) for _ in ranks]
        payloads = [r.compress(g) for r, g in zip(ranks, gradients, strict=True)]
        traffic = run_in_process(schedule, payloads)
        updates = [r.finish(p) for r, p in zip(ranks, payloads, strict=True)]
        for other in updates[1:]:
            assert all(other[name].equal(updates[0][name]) for name in PARAMETERS)
        applied = applied + flat(updates[0])
        everything = everything + sum(flat(gradient) for gradient in gradients)
    return ranks, applied, everything, [each.bytes_sent for each in traffic]


@examples(12)
@given(
    topology=st.sampled_from([t for t in topologies(ALL_REDUCE) if "server" not in t.options]),
    world_size=st.integers(1, 9),
    merge=st.sampled_from(["union", "reselect", "auto"]),
)
def test_ranks_agree_and_nothing_is_lost(topology, world_size, merge):
    config = constant(density=0.02, merge=merge, balance=True, momentum=0.0, scope="model")
    ranks, applied, everything, _ = a_run(config, topology.schedule(world_size), steps=3)
    left = sum(flat(rank.residuals()) for rank in ranks)
    torch.testing.assert_close(applied + left, everything, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("merge", ["union", "reselect"])
def test_the_busiest_rank_sends_little_more_than_the_others(merge):
    schedule = load_topology("sharded-parameter-server").schedule(8)
    ratio = {}
    for balance in (False, True):
        config = constant(density=0.1, merge=merge, balance=balance, scope="model")
        sent = np.array(a_run(config, schedule)[3])
        ratio[balance] = sent.max() / sent.mean()
    assert ratio[True] < (1.25 if merge == "union" else 1.1)
    if merge == "union":
        assert ratio[False] > 1.4


class Part(DGC):
    is_part = True


def test_a_bucket_without_compressed_tensors_takes_one_pass():
    sent = []
    for balance in (False, True):
        config = constant(density=0.1, balance=balance, momentum=0.0)
        bias = {"bias": torch.zeros(50)}
        ranks = [Part(bias, num_workers=4, config=config) for _ in range(4)]
        payloads = [rank.compress({"bias": torch.ones(50)}) for rank in ranks]
        traffic = run_in_process(load_topology("ring").schedule(4), payloads)
        for rank, payload in zip(ranks, payloads, strict=True):
            assert rank.finish(payload)["bias"].tolist() == [4.0] * 50
        sent.append([(each.bytes_sent, len(each.steps)) for each in traffic])
    assert sent[0] == sent[1]


def test_reselection_finds_the_largest_of_the_whole_sum_where_chunks_are_balanced():
    """Equal slices have equal quotas, too few for the hot tensor's elements."""
    schedule = load_topology("sharded-parameter-server").schedule(8)
    found = {}
    for balance in (False, True):
        config = constant(density=0.05, merge="reselect", balance=balance, scope="model")
        ranks = dgc_ranks(8, PARAMETERS, config)
        generator = torch.Generator().manual_seed(2)
        for _ in range(6):
            payloads = [rank.compress(skewed(generator, 5.0)) for rank in ranks]
            whole = torch.stack([sparse_of(p).to_dense() for p in payloads]).sum(0)
            best = whole.abs().topk(100).values.sum()
            run_in_process(schedule, payloads)
            kept = sparse_of(payloads[0]).values.abs().sum()
            for rank, payload in zip(ranks, payloads, strict=True):
                rank.finish(payload)
        found[balance] = float(kept / best)
    assert found[True] > 0.85 > found[False]


def test_a_snapshot_goes_on_bit_for_bit_and_fits_other_numbers_of_ranks():
    schedule = load_topology("ring").schedule(4)
    config = constant(density=0.05, merge="reselect", balance=True)
    ranks, *_ = a_run(config, schedule)
    states = [rank.state_dict() for rank in ranks]
    others = dgc_ranks(4, PARAMETERS, config)
    for rank, state in zip(others, states, strict=True):
        rank.load_state_dict(state)
    gradients = [skewed(torch.Generator().manual_seed(rank), 5.0) for rank in range(4)]
    ends = []
    for group in (ranks, others):
        payloads = [r.compress(g) for r, g in zip(group, gradients, strict=True)]
        run_in_process(schedule, payloads)
        ends.append(flat(group[0].finish(payloads[0])))
    assert ends[0].equal(ends[1])
    grown = dgc_ranks(6, PARAMETERS, config)
    for place, rank in enumerate(grown):
        rank.load_state_dict(state_for(states, place, 6))
    payloads = [rank.compress(skewed(torch.Generator().manual_seed(9), 5.0)) for rank in grown]
    run_in_process(load_topology("ring").schedule(6), payloads)
    assert all(sparse_of(p).indices.equal(sparse_of(payloads[0]).indices) for p in payloads)
