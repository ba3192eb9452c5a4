"""Schedules: transfers between ranks, step by step; their composition, text form and cost."""

from dgc_topo.arrays import IntArray
from dgc_topo.schedule.order import turns, unroll
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
    ScheduleError,
    Step,
    Transfer,
    check_is_step,
    copy,
    gather,
    mix,
    reduce,
    with_peers,
)
from dgc_topo.schedule.survivors import mixing, survivors, without
from dgc_topo.schedule.weighting import weighted

__all__ = [
    "Goal",
    "IntArray",
    "RankStep",
    "Schedule",
    "ScheduleError",
    "Step",
    "Transfer",
    "beside",
    "check_is_step",
    "copy",
    "fold",
    "gather",
    "mix",
    "mixing",
    "place",
    "reduce",
    "refine",
    "survivors",
    "then",
    "turns",
    "unroll",
    "weighted",
    "with_peers",
    "without",
]
