"""Compression: gradients to payloads and back, by DGC or by another method to compare it with.

Each name is loaded when it is first used, so that settings can be read without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dgc_topo.compression.after_sum import SGDSettings
    from dgc_topo.compression.compressor import Compressor, check_optimizer
    from dgc_topo.compression.config import DGCConfig
    from dgc_topo.compression.dense import Dense
    from dgc_topo.compression.dgc import DGC
    from dgc_topo.compression.gradients import NonFiniteGradientError
    from dgc_topo.compression.random_k import RandomK
    from dgc_topo.compression.terngrad import TernGrad
    from dgc_topo.compression.updates import UpdateCompressor

#: The module of each name.
_MODULES = {
    "DGC": "dgc",
    "Compressor": "compressor",
    "DGCConfig": "config",
    "Dense": "dense",
    "NonFiniteGradientError": "gradients",
    "RandomK": "random_k",
    "SGDSettings": "after_sum",
    "TernGrad": "terngrad",
    "UpdateCompressor": "updates",
    "check_optimizer": "compressor",
}

__all__ = [
    "DGC",
    "Compressor",
    "DGCConfig",
    "Dense",
    "NonFiniteGradientError",
    "RandomK",
    "SGDSettings",
    "TernGrad",
    "UpdateCompressor",
    "check_optimizer",
]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
