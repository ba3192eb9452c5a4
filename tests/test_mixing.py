"""Mixing matrices are what a gossip promises, and the gap is what they do."""

import numpy as np
import pytest

from dgc_topo.mixing import check_gossip, mixing_matrix
from dgc_topo.proof import prove
from dgc_topo.schedule import Goal, Schedule, ScheduleError, Step, gather, mix
from dgc_topo.topology import Topology, load_topology


def gossip_of(*steps: Step, goal: Goal = "doubly-stochastic") -> Topology:
    return Topology("test", lambda world_size: Schedule.from_steps(world_size, 1, steps, goal=goal))


def half(src, dst):
    return mix(np.array(src), np.array(dst), weight=1, denominator=2)


def test_mixing_that_is_not_doubly_stochastic_is_refused():
    with pytest.raises(ScheduleError, match="what is given of rank 0 sum to 3/2"):
        check_gossip(gossip_of(half([0], [1])), 3)


def test_column_stochastic_mixing_need_not_keep_rows():
    """Push: rank 0 gives its halves to both others, who give theirs back to rank 0."""
    steps = [mix(np.r_[1, 0], np.r_[0, 1], weight=1, denominator=2, keep=np.r_[2, 1])]
    with pytest.raises(ScheduleError, match="what is given of rank 0 sum to 3/2"):
        mixing_matrix(Schedule.from_steps(2, 1, steps, goal="column-stochastic"))
    steps = [mix(np.r_[1, 0], np.r_[0, 1], weight=np.r_[2, 1], denominator=3, keep=np.r_[2, 1])]
    matrix = mixing_matrix(Schedule.from_steps(2, 1, steps, goal="column-stochastic"))
    assert matrix.sum(axis=0).tolist() == [1, 1]
    assert matrix.sum(axis=1).tolist() != [1, 1]
    with pytest.raises(ScheduleError, match="what rank 0 receives sum to 4/3"):
        mixing_matrix(Schedule.from_steps(2, 1, steps, goal="doubly-stochastic"))


def test_unconnected_mixing_is_refused():
    with pytest.raises(ScheduleError, match=r"not connected .* ranks \[2\]"):
        check_gossip(gossip_of(half([0, 1], [1, 0])), 3)


STATIC = ["ring", "torus", "complete", "exponential"]


@pytest.mark.parametrize("graph", STATIC)
def test_the_gap_of_a_static_graph_is_that_of_its_matrix(graph):
    gossip = load_topology("gossip", {"graph": graph})
    for n in range(2, 65):
        matrix = mixing_matrix(gossip.schedule(n))
        second = np.linalg.svd(matrix, compute_uv=False)[1]
        gap = check_gossip(gossip, n).spectral_gap
        assert gap == pytest.approx(1 - second, abs=1e-12)
        if graph == "complete":
            assert gap == pytest.approx(1, abs=1e-12)
        if graph == "ring" and n > 2:
            # W = (I + P + P^T) / 3, whose eigenvalues are (1 + 2 cos(2 pi k / n)) / 3.
            assert gap == pytest.approx(2 / 3 * (1 - np.cos(2 * np.pi / n)), abs=1e-12)


@pytest.mark.parametrize(
    ("graph", "n", "gap"),
    [("complete", 33, "1"), ("torus", 9, "0.6"), ("exponential", 5, "0.75"), ("ring", 4, "0.6667")],
)
def test_printed_gaps(graph, n, gap):
    assert prove(load_topology("gossip", {"graph": graph}), n).claim.endswith(f"gap {gap}")


def test_the_gap_of_matrices_that_change_is_the_mean_of_their_product():
    """One peer at a distance h: eigenvalues (1 + w^(-k h)) / 2, which multiply."""
    gossip = load_topology("gossip", {"graph": "one-peer-exponential"})
    for n in (*range(2, 18), 31, 32, 33, 48, 63, 64):
        gap = check_gossip(gossip, n).spectral_gap
        count = 8 * n.bit_length() + 8
        hops = max((n - 1).bit_length(), 1)
        k = np.arange(1, n)
        shrunk = [
            abs(1 + np.exp(-2j * np.pi * k * (1 << (i % hops)) / n)) / 2 for i in range(count)
        ]
        if n & (n - 1):
            with np.errstate(divide="ignore"):
                logs = np.log(shrunk).sum(0)
            assert gap == pytest.approx(1 - np.exp(logs.max() / count), abs=1e-9)
        else:
            assert gap == 1  # all agree after log2(n) iterations


def test_push_sum_shrinks_by_its_second_eigenvalue():
    keep, weight = np.r_[2, 1], np.r_[2, 1]
    step = mix(np.r_[1, 0], np.r_[0, 1], weight=weight, denominator=3, keep=keep)
    pushes = gossip_of(step, goal="column-stochastic")
    gap = check_gossip(pushes, 2).spectral_gap
    matrix = mixing_matrix(pushes.schedule(2))
    assert gap == pytest.approx(1 - sorted(abs(np.linalg.eigvals(matrix)))[0])


def test_values_that_only_change_places_never_mix(tmp_path):
    swap = tmp_path / "swap.py"
    swap.write_text(
        "from dgc_topo import Schedule, gather, mix\n"
        "def schedule(world_size, iteration=0):\n"
        "    pairs = [(i, (i + 1) % world_size) for i in range(iteration % 2, world_size, 2)]\n"
        "    both = [*pairs, *((b, a) for a, b in pairs)]\n"
        "    swaps = gather(mix(a, b, weight=1, denominator=1) for a, b in both)\n"
        "    return Schedule.from_steps(world_size, 1, [swaps], goal='doubly-stochastic')\n"
    )
    with pytest.raises(ScheduleError, match="does not mix over"):
        prove(str(swap), 6)


def test_averages_of_pairs_that_change_places_mix_in_the_long_run():
    """W = P B: B averages ranks 0 and 1, and 2 and 3; P swaps ranks 1 and 2.  W**4 is positive."""
    averages = gather(
        mix(a, b, weight=1, denominator=2) for a, b in [(0, 1), (1, 0), (2, 3), (3, 2)]
    )
    swaps = gather([mix(1, 2, weight=1, denominator=1), mix(2, 1, weight=1, denominator=1)])
    schedule = Schedule.from_steps(4, 1, [averages, swaps], goal="doubly-stochastic")
    matrix = mixing_matrix(schedule)
    assert np.linalg.norm(matrix - 1 / 4, 2) == pytest.approx(1)
    assert np.linalg.matrix_power(matrix, 4).min() > 0
    assert prove(schedule).goal == "doubly-stochastic"
