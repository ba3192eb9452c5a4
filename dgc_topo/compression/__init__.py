"""Compression: gradients to payloads and back, by DGC or without compressing anything."""

from dgc_topo.compression.after_sum import SGDSettings
from dgc_topo.compression.ages import Staleness
from dgc_topo.compression.base import Compressor, check_optimizer, encoded_bytes
from dgc_topo.compression.config import DGCConfig, WarmUp, WeightDecayMode
from dgc_topo.compression.dense import Dense
from dgc_topo.compression.density import (
    PAPER_STAGES,
    DensitySchedule,
    StagedDensity,
    constant_density,
    geometric_warm_up,
    paper_warm_up,
)
from dgc_topo.compression.dgc import DGC
from dgc_topo.compression.gradients import NonFiniteGradientError
from dgc_topo.compression.groups import Groups
from dgc_topo.compression.layout import FlatLayout
from dgc_topo.compression.random_k import RandomK
from dgc_topo.compression.selection import Selection, top_k, top_k_of_all, top_k_per_layer
from dgc_topo.compression.terngrad import TernGrad
from dgc_topo.sizes import dgc_bytes

__all__ = [
    "DGC",
    "PAPER_STAGES",
    "Compressor",
    "DGCConfig",
    "Dense",
    "DensitySchedule",
    "FlatLayout",
    "Groups",
    "NonFiniteGradientError",
    "RandomK",
    "SGDSettings",
    "Selection",
    "StagedDensity",
    "Staleness",
    "TernGrad",
    "WarmUp",
    "WeightDecayMode",
    "check_optimizer",
    "constant_density",
    "dgc_bytes",
    "encoded_bytes",
    "geometric_warm_up",
    "paper_warm_up",
    "top_k",
    "top_k_of_all",
    "top_k_per_layer",
]
