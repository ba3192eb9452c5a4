"""A pytest plugin: tests run while torch's defaults are others than usual (`-p tests.defaults`).

What tests make themselves is still of the usual type and on the CPU, so they mean the same; what
the package makes gets no such help.
"""

import os
import sys
from contextlib import contextmanager

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

VARIABLE = "DGC_TOPO_TEST_DEFAULTS"  #: a type and a device, as ``float64 meta``


class UsualForTests(TorchFunctionMode):
    """Call what tests call as if the defaults were the usual ones."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        frame = sys._getframe(1)
        while (name := frame.f_globals.get("__name__", "")).startswith("torch.") and frame.f_back:
            frame = frame.f_back
        if not name.startswith("tests."):
            return func(*args, **kwargs)
        if func in _device_constructors() and kwargs.get("device") is None:
            kwargs = {**kwargs, "device": "cpu"}
        other = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            return func(*args, **kwargs)
        finally:
            torch.set_default_dtype(other)


@contextmanager
def defaults(dtype: torch.dtype, device: str):
    """Set torch's default type and device for a while."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_dtype(usual)
        torch.set_default_device(None)


@pytest.fixture(autouse=True)
def other_defaults():
    """Set the defaults that the environment names, where it names some."""
    dtype, device = os.environ[VARIABLE].split()
    with defaults(getattr(torch, dtype), device), UsualForTests():
        yield
