"""Averaging rules at work: one rank's side of each, in a file of its own."""

from dgc_topo.training.averaging.base import Averager, LocalAverager, LocalMove, Setup
from dgc_topo.training.averaging.making import local_averager

__all__ = ["Averager", "LocalAverager", "LocalMove", "Setup", "local_averager"]
