"""One call that sums tensors, as torch's all-reduce does, over every topology."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from dgc_topo.payload import DensePayload, SparsePayload
from dgc_topo.runtime import PeerError, RanksDifferError, all_reduce, collective
from dgc_topo.topology import Topology, load_topology
from tests.runtime.cluster import Cluster
from tests.runtime.test_real_processes import SUMS, TOLERANCE
from tests.strategies import smallest_world

SHAPES: list[tuple[int, ...]] = [(), (0,), (1,), (2,), (3, 5), (7, 11, 13)]


def views(rank: int) -> list[Tensor]:
    """Return tensors of all kinds that a rank may bring."""
    generator = torch.Generator().manual_seed(rank)
    found = [torch.randn(shape, generator=generator) for shape in SHAPES]
    found += [torch.randn(40, generator=generator).to(d) for d in (torch.float16, torch.bfloat16)]
    square = torch.randn(6, 8, generator=generator)
    return [*found, square.t(), torch.randn(30, generator=generator)[::3], square[1:4, 2:5]]


def sums(group: dist.ProcessGroup, topology: Topology) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return for each tensor our sum, our average, and torch's sum."""
    rank, n = dist.get_rank(group), dist.get_world_size(group)
    servers = topology.schedule(n).servers
    found = []
    for number in range(len(views(0))):
        ours, averaged = (views(rank)[number] for _ in range(2))
        torchs = torch.zeros_like(ours) if rank in servers else views(rank)[number].clone()
        outside = ours.untyped_storage()
        all_reduce(ours, topology, group)
        all_reduce(averaged, topology, group, average=True)
        assert ours.untyped_storage().data_ptr() == outside.data_ptr()
        exact = torchs.contiguous().to(torch.float32)
        dist.all_reduce(exact, group=group)
        found.append((ours.clone(), averaged.clone(), exact))
    return found


@pytest.mark.parametrize("world_size", [1, 3, 5, 8])
@pytest.mark.parametrize("topology", SUMS, ids=lambda t: t.label)
def test_tensors_are_summed_as_by_torch(cluster: Cluster, topology: Topology, world_size: int):
    if world_size < smallest_world(topology):
        pytest.skip("a dedicated server needs somebody to serve")
    schedule = topology.schedule(world_size)
    per_rank = cluster.run(world_size, sums, topology)
    for number, given in enumerate(views(0)):
        results = [rank[number] for rank in per_rank]
        tolerance = TOLERANCE[str(given.dtype).removeprefix("torch.")] * 8
        for ours, averaged, exact in results:
            assert ours.shape == given.shape
            assert ours.equal(results[0][0])
            assert averaged.equal(results[0][1])
            torch.testing.assert_close(
                ours.to(torch.float32), exact, rtol=tolerance, atol=tolerance
            )
            mean = exact / len(schedule.contributors)
            torch.testing.assert_close(
                averaged.to(torch.float32), mean, rtol=tolerance, atol=tolerance
            )


def what_lies_around(group: dist.ProcessGroup) -> list[list[float]]:
    """Sum every third element; return all of them."""
    memory = torch.ones(9)
    all_reduce(memory[::3], "ring", group)
    return memory.tolist()


def of_negative_and_transposed_views(group: dist.ProcessGroup) -> list[object]:
    """Sum a view whose sign is turned when it is read, and one whose dimensions are swapped."""
    numbers = torch.arange(6.0).reshape(2, 3)
    turned = torch.complex(numbers, numbers).conj().imag
    assert turned.is_neg()
    swapped = numbers.clone().t()
    for values in (turned, swapped):
        all_reduce(values, "ring", group)
    return [turned.tolist(), swapped.tolist()]


def test_views_of_any_strides_and_sign(cluster: Cluster):
    whole = torch.arange(6.0).reshape(2, 3) * 2
    for said in cluster.run(2, of_negative_and_transposed_views):
        assert said == [(-whole).tolist(), whole.t().tolist()]


def test_of_a_view_only_its_own_elements_change(cluster: Cluster):
    assert cluster.run(3, what_lies_around) == [[3, 1, 1, 3, 1, 1, 3, 1, 1]] * 3


def by_name(group: dist.ProcessGroup, names: Sequence[str]) -> list[object]:
    """Sum over topologies told by name; payloads, too.  Return what came out."""
    found: list[object] = []
    for name in names:
        values = torch.ones(5)
        traffic = all_reduce(values, name, group)
        found.append((values.tolist(), traffic.bytes_sent > 0, repr(traffic).split(",")[0]))
    dense = DensePayload(torch.ones(4))
    all_reduce(dense, "ring", group)
    sparse = SparsePayload(torch.tensor([dist.get_rank(group)]), torch.ones(1), 4)
    all_reduce(sparse, "ring", group)
    return [*found, dense.buffer.tolist(), sparse.to_dense().tolist()]


def test_topologies_by_name_and_payloads(cluster: Cluster):
    for said in cluster.run(2, by_name, ["ring", "butterfly:algorithm=doubling"]):
        assert said == [
            ([2] * 5, True, "Traffic(2 steps"),
            ([2] * 5, True, "Traffic(1 steps"),
            [2] * 4,
            [1, 1, 0, 0],
        ]


def refused(group: dist.ProcessGroup) -> list[str]:
    """Return what is said to what cannot be summed, and to ranks that differ."""
    rank = dist.get_rank(group)
    ones = torch.ones(4)
    attempts = [
        lambda: all_reduce(ones, "gossip", group),
        lambda: all_reduce(ones.double(), "ring", group),
        lambda: all_reduce(ones.view(1, -1).to_sparse_csr(), "ring", group),
        lambda: all_reduce(torch.ones(1).expand(4), "ring", group),
        lambda: all_reduce(ones.unfold(0, 3, 1), "ring", group),
        lambda: all_reduce([1.0], "ring", group),  # type: ignore[arg-type]
        lambda: all_reduce(DensePayload(ones), "ring", group, average=True),
        lambda: all_reduce(torch.ones(4 + rank), "ring:segments=2", group),
        lambda: all_reduce(ones, ["ring:segments=3", "ring:segments=4"][rank], group),
    ]
    said = []
    for attempt in attempts:
        try:
            attempt()
        except (ValueError, PeerError) as error:
            said.append(f"{type(error).__name__}: {error}")
    del collective._GROUPS[group]  # whose transport is of no more use
    return said


def test_what_cannot_be_summed_is_refused_by_name(cluster: Cluster):
    both = cluster.run(2, refused)
    assert both[0][:7] == both[1][:7]
    gossip, double, sparse, expanded, unfolded, numbers, average, shape, later = both[0]
    assert "topology gossip is doubly-stochastic, expected an all-reduce" in gossip
    assert "Communicator" in gossip
    assert "tensor of torch.float64" in double
    assert "layout torch.sparse_csr, expected a dense or a sparse COO one" in sparse
    assert "whose elements share memory" in expanded
    assert unfolded == expanded
    assert "all_reduce: list, expected a tensor, or a payload" in numbers
    assert "average of a payload" in average
    assert shape.startswith(RanksDifferError.__name__)
    assert "payload's elements is 5 on rank 1, 4 on rank 0" in shape
    assert later.startswith("PeerError: rank 0: topology ring, step 0: transport unusable")


def test_without_a_process_group():
    with pytest.raises(ValueError, match="no process group"):
        all_reduce(torch.ones(3), load_topology("ring"))


def kept(group: dist.ProcessGroup) -> list[int]:
    """Return how many communicators are kept for a group after calls of several kinds."""
    before = len(collective._GROUPS.get(group, (None, {}))[1])
    for seed in (101, 101, 102):
        for length in (3, 4):
            all_reduce(torch.ones(length), "tree", group, seed=seed)
    return [len(collective._GROUPS[group][1]) - before, len(collective._GROUPS)]


def test_communicators_are_kept_by_topology_and_seed(cluster: Cluster):
    for more, groups in cluster.run(4, kept):
        assert more == 2
        assert groups >= 1


def test_a_group_that_is_no_more_is_forgotten(tmp_path: Path):
    for number in range(2):
        store = f"file://{tmp_path}/store{number}"
        dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
        try:
            values = torch.ones(3)
            all_reduce(values, "ring")
            assert values.tolist() == [1, 1, 1]
            assert [*collective._GROUPS] == [dist.group.WORLD]
        finally:
            dist.destroy_process_group()
    collective._GROUPS.clear()
