"""The fused kernel for GPUs does what the plain operations do."""

import pytest
import torch

from dgc_topo.compression.accumulation import Accumulation
from dgc_topo.compression.assembly import accumulation_of
from dgc_topo.compression.dgc import DGC
from dgc_topo.compression.layout import FlatLayout
from tests.compression.workers import constant, random_like, sparse_of
from tests.kernels import needs_gpu, needs_triton, run_check

CHECKS = {"fused_check": "fused equals plain", "step_check": "whole equals plain"}


@needs_triton
@pytest.mark.slow
@pytest.mark.timeout(600)  # an interpreter of Python in Python: a minute on a fast machine
@pytest.mark.parametrize("check", CHECKS)
def test_the_kernels_as_interpreted_equal_the_plain_operations_bit_for_bit(check):
    assert run_check(f"tests.compression.{check}", interpreted=True) == CHECKS[check]


@needs_triton
@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("check", CHECKS)
def test_the_kernels_on_a_gpu_equal_the_plain_operations_bit_for_bit(check):
    assert run_check(f"tests.compression.{check}", interpreted=False) == CHECKS[check]


def test_a_cpu_takes_the_plain_operations():
    layout = FlatLayout.of({"w": torch.empty(2, 2)})
    assert type(accumulation_of(layout, torch.device("cpu"), constant())) is Accumulation


@needs_triton
@pytest.mark.gpu
@needs_gpu
def test_a_gpu_sends_what_a_cpu_sends_bit_for_bit():
    shapes = {"a": (300, 200), "b": (3, 3), "c": (1000, 70)}
    parameters = {name: torch.zeros(shape) for name, shape in shapes.items()}
    on_gpu = {name: parameter.cuda() for name, parameter in parameters.items()}
    cpu, gpu = (DGC(p, num_workers=1, config=constant(density=0.01)) for p in (parameters, on_gpu))
    generator = torch.Generator().manual_seed(1)
    for _ in range(10):
        gradients = random_like(parameters, generator)
        expected = sparse_of(cpu.compress(gradients))
        found = sparse_of(gpu.compress({n: g.cuda() for n, g in gradients.items()}))
        assert found.indices.cpu().equal(expected.indices)
        assert found.values.cpu().equal(expected.values)


@needs_triton
@pytest.mark.gpu
@pytest.mark.slow
@needs_gpu
@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.mem_get_info()[0] < 40 * 2**30,
    reason="needs 40 GiB of GPU memory",
)
def test_elements_beyond_two_to_the_31_are_accumulated_and_sent():
    length = 2**31 + 2**20
    gradient = torch.zeros(length // 1024, 1024, dtype=torch.bfloat16, device="cuda")
    rank = DGC({"w": gradient}, num_workers=1, config=constant(density=1e-7))
    places = torch.tensor([5, 2**31 - 1, 2**31, length - 1], device="cuda")
    gradient.view(-1)[places] = torch.tensor([1.0, 2, 3, 4], dtype=torch.bfloat16, device="cuda")
    for step in range(3):
        sent = sparse_of(rank.compress({"w": gradient}))
        assert sent.indices.equal(places), step
        assert sent.values.tolist() == [1, 2, 3, 4]
