"""Making of a rank's side of an averaging rule."""

from __future__ import annotations

from typing import Any

from dgc_topo.averaging import DPSGD, Averaging, Changes, Choco, DGCGossip, NoLoCo, PushSum
from dgc_topo.training.averaging.base import LocalAverager, LocalMove, Parameters, Setup
from dgc_topo.training.averaging.changes import ChangeAverager
from dgc_topo.training.averaging.choco import ChocoAverager
from dgc_topo.training.averaging.dgc_gossip import DGCGossipAverager
from dgc_topo.training.averaging.no_loco import NoLoCoAverager
from dgc_topo.training.averaging.own_rule import OwnRuleAverager
from dgc_topo.training.averaging.parameters import ParameterAverager
from dgc_topo.training.averaging.push_sum import PushSumAverager

#: Types of rules and their sides; the first that fits counts.
_KINDS: tuple[tuple[type[Averaging], Any], ...] = (
    (Changes, ChangeAverager),
    (DPSGD, ParameterAverager),
    (PushSum, PushSumAverager),
    (DGCGossip, DGCGossipAverager),  # before choco, of which it is one
    (Choco, ChocoAverager),
    (NoLoCo, NoLoCoAverager),
    (Averaging, OwnRuleAverager),  # any other is a file of the user's own
)


def local_averager(
    averaging: Averaging, parameters: Parameters, local: LocalMove, setup: Setup
) -> LocalAverager:
    """Return a rank's side of a rule in which each rank's own optimizer moves its parameters.

    Args:
        averaging: The rule.
        parameters: The rank's, by name; equal on all ranks now.
        local: Its own optimizer.
        setup: Facts about it.

    Raises:
        ValueError: if it cannot be done with these parameters.
    """
    kind = next(kind for rule, kind in _KINDS if isinstance(averaging, rule))
    made: LocalAverager = kind(parameters, local, averaging, setup)
    if averaging.leaves_out:
        made.check_alike()
    return made
