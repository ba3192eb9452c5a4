"""What a balanced exact sum sends in two passes, and what a simulated training step says of it."""

from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist

import dgc_topo as dt
from dgc_topo.payload import Payload
from dgc_topo.payload.bundle import SIZE_BYTES
from dgc_topo.runtime import all_reduce, run_in_process
from dgc_topo.runtime.framing import LENGTH_BYTES
from dgc_topo.simulation.training import (
    ReadyLayer,
    SparseEncoding,
    TrainingStep,
    Workload,
    simulate_training_step,
)
from dgc_topo.simulation.training.traffic import bytes_per_edge
from dgc_topo.wire.coding import DENSE_BYTES, WireCoding, WireDtype
from tests.runtime.cluster import Cluster

RANKS, DENSITY = 4, 0.01
SHAPES = {"a": (400, 500), "b": (100, 300), "bias": (64,)}
NAMES = ["ring", "butterfly", "tree", "sharded-parameter-server"]
DTYPES: list[WireDtype] = ["float32", "int8"]
CASES = [(name, dtype) for name in NAMES for dtype in DTYPES]


class Sent(NamedTuple):
    """What one rank sent."""

    num_bytes: int
    messages: int


def payload_of(rank: int, dtype: WireDtype) -> Payload:
    parameters = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    dgc = dt.DGC(
        parameters,
        num_workers=RANKS,
        density=DENSITY,
        warm_up="none",
        wire_dtype=dtype,
        balance=True,
    )
    generator = torch.Generator().manual_seed(rank)
    return dgc.compress({n: torch.randn(s, generator=generator) for n, s in SHAPES.items()})


def really(group: dist.ProcessGroup) -> list[Sent]:
    rank, found = dist.get_rank(group), []
    for name, dtype in CASES:
        traffic = all_reduce(payload_of(rank, dtype), name, group)
        found.append(Sent(traffic.bytes_sent, traffic.messages_sent))
    return found


def step_of(dtype: WireDtype) -> TrainingStep:
    encoding = SparseEncoding(
        DENSITY, WireCoding(wire_dtype=dtype), DENSE_BYTES[dtype], balance=True
    )
    layer = ReadyLayer("model", 1.0, (200_000, 30_000), 64)
    return TrainingStep(workload=Workload(0.0, (layer,)), encoding=encoding)


def test_real_ranks_send_what_is_predicted_and_counted_in_process(cluster: Cluster):
    ranks = cluster.run(RANKS, really)
    for place, (name, dtype) in enumerate(CASES):
        schedule = dt.load_topology(name).schedule(RANKS)
        accounts = run_in_process(schedule, [payload_of(rank, dtype) for rank in range(RANKS)])
        sent = [Sent(each.bytes_sent, each.messages_sent) for each in accounts]
        assert sent == [rank[place] for rank in ranks]
        found = simulate_training_step(step_of(dtype), schedule, "1gbe").traffic
        assert found.messages_sent.tolist() == [each.messages for each in sent]
        messages = sum(each.messages for each in sent)
        # The transport says how long each is; half of them are bundles, whose parts are padded.
        told = messages * (LENGTH_BYTES + (SIZE_BYTES + 4) / 2)
        assert sum(each.num_bytes for each in sent) - told == pytest.approx(
            found.bytes_sent.sum(), rel=0.03
        )
        edges = bytes_per_edge(step_of(dtype), schedule)
        assert sum(edges.values()) == pytest.approx(found.bytes_sent.sum())


def test_a_second_pass_is_later_and_its_bucket_ends_with_it():
    step = step_of("float32")
    schedule = dt.load_topology("ring").schedule(RANKS)
    for engine in ("events", "bulk"):
        found = simulate_training_step(step, schedule, "1gbe", engine=engine)
        assert found.traffic.start_s.shape == (1, RANKS)
        assert found.traffic.start_s.max() == pytest.approx(1.0)
        once = dt.simulate(
            schedule, "1gbe", 4 * 230_000, density=DENSITY, balance=True, engine=engine
        )
        exchange_s = found.traffic.end_s.max() - 1
        assert exchange_s == pytest.approx(once.time_s, rel=0.02)  # biases beside the entries
        assert found.step_time_s > 1 + once.time_s


@pytest.mark.parametrize("settings", [{}, {"density": 0.1, "merge": "auto"}], ids=str)
def test_two_passes_of_a_step_are_for_exact_sparse_sums(settings):
    with pytest.raises(ValueError, match=r"^balance: is for exact sparse sums, expected density"):
        dt.simulate_step("resnet50", "ring", "1gbe", world_size=4, balance=True, **settings)
