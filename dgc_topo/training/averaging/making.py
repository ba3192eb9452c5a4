"""Making of a rank's side of an averaging rule."""

from __future__ import annotations

from dgc_topo.averaging import DPSGD, Averaging, Changes, Choco, DGCGossip, NoLoCo, PushSum
from dgc_topo.training.averaging.base import LocalAverager, LocalMove, Parameters, Setup
from dgc_topo.training.averaging.changes import ChangeAverager
from dgc_topo.training.averaging.choco import ChocoAverager
from dgc_topo.training.averaging.dgc_gossip import DGCGossipAverager
from dgc_topo.training.averaging.no_loco import NoLoCoAverager
from dgc_topo.training.averaging.parameters import ParameterAverager
from dgc_topo.training.averaging.push_sum import PushSumAverager


def local_averager(
    averaging: Averaging, parameters: Parameters, local: LocalMove, setup: Setup
) -> LocalAverager:
    """Return a rank's side of a rule in which each rank's own optimizer moves its parameters.

    Args:
        averaging: The rule.
        parameters: The rank's, by name; equal on all ranks now.
        local: Its own optimizer.
        setup: Facts about it.
    """
    match averaging:
        case Changes():
            return ChangeAverager(parameters, local, averaging, setup)
        case DPSGD():
            return ParameterAverager(parameters, local, averaging, setup)
        case PushSum():
            return PushSumAverager(parameters, local, averaging, setup)
        case DGCGossip():  # before choco, of which it is one
            return DGCGossipAverager(parameters, local, averaging, setup)
        case Choco():
            return ChocoAverager(parameters, local, averaging, setup)
        case NoLoCo():
            return NoLoCoAverager(parameters, local, averaging, setup)
    raise AssertionError(f"no averager of {averaging.rule}")
