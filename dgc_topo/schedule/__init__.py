"""What a topology is: a schedule of transfers between ranks."""

from dgc_topo.schedule.schedule import (
    Goal,
    RankStep,
    Schedule,
    beside,
    fold,
    place,
    refine,
    then,
)
from dgc_topo.schedule.step import (
    IntArray,
    ScheduleError,
    Step,
    Transfer,
    copy,
    gather,
    mix,
    reduce,
    with_peers,
)

__all__ = [
    "Goal",
    "IntArray",
    "RankStep",
    "Schedule",
    "ScheduleError",
    "Step",
    "Transfer",
    "beside",
    "copy",
    "fold",
    "gather",
    "mix",
    "place",
    "reduce",
    "refine",
    "then",
    "with_peers",
]
