"""How kernels for GPUs are tested: by a script of their own, interpreted or on a GPU."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from unittest import mock

import pytest
import torch

from dgc_topo.wire import encoding, small
from dgc_topo.wire.coding import WireCoding
from dgc_topo.wire.format import may_take_rice

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


@contextmanager
def as_kernels_choose() -> Iterator[None]:
    """Have torch leave Rice codes out of ``auto`` as well, as kernels do."""
    with (
        mock.patch.object(encoding, "may_take_rice", _takes_rice),
        mock.patch.object(small, "may_take_rice", _takes_rice),
    ):
        yield


def _takes_rice(coding: WireCoding) -> bool:
    return coding.index_encoding == "rice" or (coding.is_coarse and may_take_rice(coding))
