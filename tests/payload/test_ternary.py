"""Ternary sums follow the order of a step as every other payload does."""

import numpy as np
import torch

from dgc_topo.payload import DensePayload, Ternary, TernaryPayload
from dgc_topo.runtime import run_in_process
from dgc_topo.schedule import Schedule, copy, gather, reduce

NUM_RANKS, LENGTH, CHUNKS = 3, 10, 3
OFFSETS = (0, 4, LENGTH)


def ternary(rank: int) -> TernaryPayload:
    generator = torch.Generator().manual_seed(rank)
    codes = torch.randint(0, 3, (LENGTH,), generator=generator).to(torch.uint8)
    scales = torch.tensor([1.0 + rank, 4.0 + rank])
    return TernaryPayload({rank: Ternary(scales, codes)}, OFFSETS, torch.device("cpu"))


def drawn(random: np.random.Generator) -> Schedule:
    """Return a schedule of steps in which several ranks write to one chunk."""
    steps = []
    for _ in range(random.integers(1, 4)):
        kinds = [reduce, copy]
        transfers = []
        for _ in range(random.integers(1, 5)):
            src, dst = random.permutation(NUM_RANKS)[:2].tolist()
            chunk = int(random.integers(CHUNKS))
            count = int(random.integers(1, CHUNKS - chunk + 1))
            transfers.append(kinds[random.integers(2)](src, dst, chunk, count))
        steps.append(gather(transfers))
    return Schedule.from_steps(NUM_RANKS, CHUNKS, steps)


def test_ternary_sums_are_the_dense_ones_or_refused():
    """Refused where a rank counts twice, which is no all-reduce; what comes before a copy may."""
    random, compared = np.random.default_rng(1), 0
    for _ in range(400):
        schedule = drawn(random)
        payloads = [ternary(rank) for rank in range(NUM_RANKS)]
        dense = [DensePayload(payload.to_dense()) for payload in payloads]
        run_in_process(schedule, dense)
        try:
            run_in_process(schedule, payloads)
        except ValueError as error:
            if "arrived twice" not in str(error):
                raise
            continue
        compared += 1
        for one, other in zip(payloads, dense, strict=True):
            assert torch.equal(one.to_dense(), other.buffer)
    assert compared > 50


def test_a_copy_replaces_what_is_listed_before_it_and_not_what_comes_after():
    for step, kept in (
        ([reduce(2, 0), copy(1, 0)], {1}),
        ([copy(2, 0), reduce(1, 0)], {1, 2}),
        ([reduce(1, 0), copy(1, 0)], {1}),
    ):
        payloads = [ternary(rank) for rank in range(NUM_RANKS)]
        expected = sum((payloads[rank].to_dense() for rank in kept), torch.zeros(LENGTH))
        run_in_process(Schedule.from_steps(NUM_RANKS, 1, [gather(step)]), payloads)
        assert torch.equal(payloads[0].to_dense(), expected)
