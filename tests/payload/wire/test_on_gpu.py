"""The kernels for GPUs make the bytes that torch makes, and read them alike."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from dgc_topo.payload.wire.devices import has_kernels

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def run_check(**environment: str) -> str:
    # In a process of its own: Triton decides at its import whether to interpret.
    done = subprocess.run(
        [sys.executable, "-m", "tests.payload.wire.gpu_check"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@needs_triton
@pytest.mark.slow
@pytest.mark.timeout(600)  # an interpreter of Python in Python: a minute on a fast machine
def test_the_kernels_as_interpreted_equal_torch_byte_for_byte():
    assert run_check(TRITON_INTERPRET="1") == "kernels equal torch"


@needs_triton
@pytest.mark.gpu
@needs_gpu
def test_the_kernels_on_a_gpu_equal_torch_byte_for_byte():
    assert run_check(TRITON_INTERPRET="0") == "kernels equal torch"


def test_a_cpu_has_no_kernels():
    assert not has_kernels(torch.empty(1))
