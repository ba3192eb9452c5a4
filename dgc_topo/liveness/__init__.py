"""Liveness of the ranks: who is lost, in which step and phase, and how everyone learns of it.

Under a launcher every rank has a `sentinel` beside it.  In a `dgc_topo.workers.Session` all ranks
are processes of this machine, which the session's owner watches itself; they only note what they
do.  Nothing here loads torch.
"""

from dgc_topo.liveness.board import Board, new_board
from dgc_topo.liveness.loss import Ended, Loss, Position
from dgc_topo.liveness.processes import STOPPED, StopCounter, end_with_launcher, is_stopped
from dgc_topo.liveness.service import Liveness, Watched, current, make_current

__all__ = [
    "STOPPED",
    "Board",
    "Ended",
    "Liveness",
    "Loss",
    "Position",
    "StopCounter",
    "Watched",
    "current",
    "end_with_launcher",
    "is_stopped",
    "make_current",
    "new_board",
]
