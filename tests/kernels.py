"""How kernels for GPUs are tested: by a script of their own, interpreted or on a GPU."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def run_check(script: str, *, interpreted: bool) -> str:
    """Return what a module prints, run in a process of its own.

    Triton decides at its import whether to interpret.
    """
    done = subprocess.run(
        [sys.executable, "-m", script],
        env={**os.environ, "TRITON_INTERPRET": str(int(interpreted))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
