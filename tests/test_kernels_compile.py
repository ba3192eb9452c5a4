"""Kernels compile for a GPU, whether there is one or not."""

import pytest

from tests.kernels import needs_triton, run_check


@needs_triton
@pytest.mark.slow
def test_every_kernel_compiles():
    assert run_check("tests.compile_check", interpreted=False) == "all compile"
