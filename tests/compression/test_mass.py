"""Nothing is lost: what was sent plus what is left is everything that was accumulated."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dgc_topo.runtime import run_in_process
from dgc_topo.topology import load_topology
from dgc_topo.wire.coding import DENSE_DTYPES, WIRE_DTYPES
from tests.compression.workers import (
    constant,
    dgc_ranks,
    random_like,
    sparse_of,
)

shapes = st.lists(
    st.lists(st.integers(1, 6), min_size=2, max_size=3).map(tuple), min_size=1, max_size=3
)


class Reference:
    """One rank's velocity and all that ever entered its residual, in float64."""

    def __init__(self, length: int, momentum: float, *, nesterov: bool, masking: bool) -> None:
        self.velocity = torch.zeros(length, dtype=torch.float64)
        self.accumulated = torch.zeros(length, dtype=torch.float64)
        self.momentum, self.nesterov, self.masking = momentum, nesterov, masking

    def add(self, gradient: Tensor) -> None:
        if self.nesterov:
            self.velocity = self.momentum * (self.velocity + gradient)
            self.accumulated += self.velocity + gradient
        else:
            self.velocity = self.momentum * self.velocity + gradient
            self.accumulated += self.velocity

    def mask(self, indices: Tensor) -> None:
        if self.masking:
            self.velocity[indices] = 0


def flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors.values()]).double()


@settings(max_examples=40)
@given(
    shapes=shapes,
    num_workers=st.integers(1, 4),
    density=st.sampled_from([0.01, 0.1, 0.3, 0.7]),
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    wire_dtype=st.sampled_from(WIRE_DTYPES),
    seed=st.integers(0, 2**31),
)
def test_sent_plus_residuals_is_all_that_was_accumulated_at_every_step(
    shapes, num_workers, density, momentum, flags, wire_dtype, seed
):
    masking, nesterov, reject = flags
    law = {"masking": masking, "nesterov": nesterov and momentum > 0}
    parameters = {str(i): torch.zeros(shape) for i, shape in enumerate(shapes)}
    config = constant(density=density, momentum=momentum, wire_dtype=wire_dtype, **law)
    ranks = dgc_ranks(num_workers, parameters, config)
    length = flat(parameters).numel()
    references = [Reference(length, momentum, **law) for _ in ranks]
    generator = torch.Generator().manual_seed(seed)
    total_sent = torch.zeros(length, dtype=torch.float64)
    for _ in range(6):
        for rank, reference in zip(ranks, references, strict=True):
            gradients = random_like(parameters, generator)
            reference.add(flat(gradients))
            sent = sparse_of(rank.compress(gradients))
            reference.mask(sent.indices)
            kept = len(sent.indices) // 2 if reject else len(sent.indices)
            total_sent[sent.indices[:kept]] += sent.values[:kept]
            rank.give_back(sent.indices[kept:], sent.values[kept:])
            torch.testing.assert_close(
                flat(rank.velocities()), reference.velocity, rtol=1e-4, atol=1e-5
            )
        left = torch.stack([flat(rank.residuals()) for rank in ranks]).sum(0)
        accumulated = torch.stack([reference.accumulated for reference in references]).sum(0)
        torch.testing.assert_close(total_sent + left, accumulated, rtol=1e-4, atol=1e-4)


@settings(max_examples=25)
@given(
    density=st.floats(0.001, 0.999) | st.just(1.0),
    seed=st.integers(0, 2**31),
    masking=st.booleans(),
    wire_dtype=st.sampled_from(DENSE_DTYPES),
    scale=st.sampled_from([1e-9, 1.0, 1e6]),
)
def test_one_step_moves_elements_bit_for_bit(density, seed, masking, wire_dtype, scale):
    """Whatever a message cannot hold, by precision or by range, is left in the residual."""
    parameters = {"w": torch.zeros(13, 7)}
    config = constant(density=density, masking=masking, wire_dtype=wire_dtype)
    rank = dgc_ranks(1, parameters, config)[0]
    generator = torch.Generator().manual_seed(seed)
    for _ in range(3):
        gradient = random_like(parameters, generator)["w"] * scale
        velocity = (rank.velocities()["w"] * 0.9).add(gradient)
        expected = rank.residuals()["w"] + velocity
        payload = rank.compress({"w": gradient})
        before = rank.finish(payload)["w"]
        assert (before + rank.residuals()["w"]).equal(expected)
        run_in_process(load_topology("ring").schedule(1), [payload])
        assert rank.finish(payload)["w"].equal(before)  # nothing is left to be rounded
        assert before.isfinite().all()
