"""What one rank does, as plain objects that can be kept from run to run."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from dgc_topo.runtime.program import PlannedStep, ProgramStep, program_for
from dgc_topo.schedule import Goal, Schedule


class ScheduleSource(Protocol):
    """A topology, as far as running it needs one."""

    @property
    def name(self) -> str:
        """What errors call it."""

    @property
    def varies(self) -> bool:
        """Whether the schedule depends on the iteration."""

    def schedule(self, world_size: int, *, iteration: int = 0, seed: int = 0) -> Schedule:
        """Return the schedule, the same on every rank."""


class Plan(NamedTuple):
    """Everything one rank does in a schedule."""

    num_chunks: int
    goal: Goal
    steps: tuple[PlannedStep, ...]
    program: tuple[ProgramStep, ...]  #: the same, where messages travel singly

    @property
    def agree(self) -> bool:
        """Whether all ranks are to end bit-identical."""
        return self.goal == "all-reduce"


def plan_for(schedule: Schedule, rank: int) -> Plan:
    """Return *rank*'s plan.

    Raises:
        ScheduleError: if there is no such rank, or a transfer does not fit the schedule.
    """
    steps = tuple(
        PlannedStep(step.index, tuple(step.sends), tuple(step.receives))
        for step in schedule.for_rank(rank)
    )
    return Plan(schedule.num_chunks, schedule.goal, steps, program_for(steps))
