"""Making of a rank's side of an averaging rule."""

from __future__ import annotations

from dgc_topo.averaging import DPSGD, Averaging, Changes
from dgc_topo.training.averaging.base import LocalAverager, LocalMove, Parameters, Setup
from dgc_topo.training.averaging.changes import ChangeAverager
from dgc_topo.training.averaging.parameters import ParameterAverager


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
    raise AssertionError(f"no averager of {averaging.rule}")
