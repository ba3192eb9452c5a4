"""Averaging rules: what the ranks of a training average, how often, and over what topologies.

===========  =====================================  ============  ========================
rule         what is averaged                       over          what moves the parameters
===========  =====================================  ============  ========================
gradients    the gradient, or what DGC sends of it  all-reduce    the update that follows
updates      the change of H steps of one's own     all-reduce    the mean change
local-sgd    the same                               all-reduce    the mean change
diloco       the same                               all-reduce    an outer Nesterov step
sparse-loco  the same, with a residual              all-reduce    an outer step
d-psgd       the parameters                         gossip        one's own step
push-sum     the parameters and a weight            push          one's own step
choco        the compressed change of parameters    gossip        one's own step
dgc-gossip   the same                               gossip        one's own velocity
no-loco      an anchor and an outer momentum        gossip        an outer Nesterov step
===========  =====================================  ============  ========================

A rule is one value from the command line to the record: ``diloco:every=50``.  How it works is in
`dgc_topo.training.averaging`; nothing here needs torch.  A rule of the user's own is a file, of
which the text form names the path: ``mine.py:every=50``, see `AveragingRule`.
"""

from dgc_topo.averaging.attendance import Attendance
from dgc_topo.averaging.loading import (
    AveragingChoice,
    Averagings,
    known_averagings,
    load_averaging,
    read_averaging,
    table_of,
)
from dgc_topo.averaging.over_all_reduce import (
    Changes,
    DiLoCo,
    Gradients,
    LocalSGD,
    LookingAhead,
    SparseLoCo,
    Updates,
)
from dgc_topo.averaging.over_gossip import DPSGD, Choco, DGCGossip, NoLoCo, PushSum
from dgc_topo.averaging.own_rule import AveragingRule, found_anywhere, identified, place_of
from dgc_topo.averaging.rule import Averaging, Outer

__all__ = [
    "DPSGD",
    "Attendance",
    "Averaging",
    "AveragingChoice",
    "AveragingRule",
    "Averagings",
    "Changes",
    "Choco",
    "DGCGossip",
    "DiLoCo",
    "Gradients",
    "LocalSGD",
    "LookingAhead",
    "NoLoCo",
    "Outer",
    "PushSum",
    "SparseLoCo",
    "Updates",
    "found_anywhere",
    "identified",
    "known_averagings",
    "load_averaging",
    "place_of",
    "read_averaging",
    "table_of",
]
