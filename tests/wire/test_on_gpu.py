"""The kernels for GPUs make the bytes that torch makes, and read them alike."""

import pytest
import torch

from dgc_topo.wire.tensors import has_kernels
from tests.kernels import needs_gpu, needs_triton, run_check

CHECK = "tests.wire.gpu_check"


@needs_triton
@pytest.mark.slow
@pytest.mark.timeout(600)  # an interpreter of Python in Python: a minute on a fast machine
def test_the_kernels_as_interpreted_equal_torch_byte_for_byte():
    assert run_check(CHECK, interpreted=True) == "kernels equal torch"


@needs_triton
@pytest.mark.gpu
@needs_gpu
def test_the_kernels_on_a_gpu_equal_torch_byte_for_byte():
    assert run_check(CHECK, interpreted=False) == "kernels equal torch"


def test_a_cpu_has_no_kernels():
    assert not has_kernels(torch.device("cpu"))
