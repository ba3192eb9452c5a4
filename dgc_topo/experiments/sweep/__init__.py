"""Sweeps: predictions for all combinations of many settings, in one frame and one file.

Start at `sweep`.  Read `dgc_topo.experiments.scenario.sweep` (the axes), then `grid` (their
combinations), `prediction` (one of them), `store` (the records), `processes` and `running`.
"""

from dgc_topo.experiments.scenario.axes import Spread, spread
from dgc_topo.experiments.sweep.result import SweepRecords
from dgc_topo.experiments.sweep.sweep import sweep

__all__ = ["Spread", "SweepRecords", "spread", "sweep"]
