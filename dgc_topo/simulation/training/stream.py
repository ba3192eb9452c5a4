"""Buckets on the network: one schedule per bucket, one after the other on each rank.

A rank goes on to its next bucket when it has finished its part in the previous one and its
gradients are ready.  Readiness is modelled as a message of the rank to itself: before each bucket
every rank has a *gate*, a flow over no link that ends when the bucket is ready.  Everything else
(starting flows, sharing, late reading of steps) is done by `ScheduleProgress`, as for one schedule.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from dgc_topo.arrays import FloatArray, IntArray
from dgc_topo.schedule import Schedule
from dgc_topo.simulation.fluid import Fluid
from dgc_topo.simulation.pattern import Pattern
from dgc_topo.simulation.progress import ScheduleProgress
from dgc_topo.simulation.step_sizes import Sizes
from dgc_topo.simulation.transfer_sizes import fit_sizes


class BucketStream(ScheduleProgress):
    """Owner of the flows of all buckets of a step.

    Args:
        fluid: The network's flows.
        schedules: Schedule of each bucket, all of one world size.
        sizes: Sizes of each bucket's transfers.
        ready_s: Time at which each rank may begin each bucket, shape (num_buckets, world_size).
        placement: Host of each rank, shape (world_size,).

    Attributes:
        start_s: Time at which each rank began each bucket, shape (num_buckets, world_size).
        end_s: Time at which each rank finished its part in each bucket, same shape.
    """

    def __init__(
        self,
        fluid: Fluid,
        schedules: Sequence[Schedule],
        sizes: Sequence[Sizes],
        ready_s: FloatArray,
        placement: IntArray,
    ) -> None:
        sizes = [fit_sizes(*pair) for pair in zip(sizes, schedules, strict=True)]
        super().__init__(fluid, schedules[0], sizes[0], placement)
        self.start_s, self.end_s = np.zeros_like(ready_s), np.zeros_like(ready_s)
        self._fewest_idle = 1  # one that is ready may pass its gate
        self._ready_s = ready_s
        self._buckets = iter(zip(schedules, sizes, strict=True))
        self._steps = iter(())  # of the bucket being read
        self._gate_flows: list[int] = []  # first gate's flow of each bucket
        self._gate_places: list[int] = []  # first gate's place
        hops, _ = fluid.resources.of_messages(placement, placement)
        self._gates = Pattern.of_selves(np.arange(self._world_size), hops)

    def _read_next(self) -> bool:
        """Read the next step of this bucket, or the gates of the next."""
        if super()._read_next():
            return True
        schedule, self._sizes = next(self._buckets, (None, self._sizes))
        if schedule is None:
            return False
        self._steps = enumerate(schedule.steps())
        self._have_begun[:] = False
        self._read_gates()
        return True

    def _read_gates(self) -> None:
        flows, places = self._agenda.flows, self._agenda.places
        first = flows.end
        self._gate_flows.append(first)
        self._gate_places.append(places.end)
        zeros = np.zeros(self._world_size)
        here = self._agenda.add(self._gates, zeros, zeros, zeros)
        self._idle -= int(here.sum())
        rows = np.arange(first, flows.end) - flows.base
        if here.all():
            delay_s = self._until_posted(rows, zeros)
            hops, tags = self._gates.hops, rows + flows.base
            self._fluid.start(hops, delay_s, zeros, tags, self._number)
        else:
            self._start(rows[flows["waiting"][rows] == 0])

    def _until_posted(self, rows: IntArray, delay_s: FloatArray) -> FloatArray:
        """Return the delays of flows as for one schedule; a gate ends when its bucket is ready."""
        delay_s = super()._until_posted(rows, delay_s)
        flows = rows + self._agenda.flows.base
        bucket = np.searchsorted(self._gate_flows, flows, "right") - 1
        rank = flows - np.array(self._gate_flows)[bucket]
        gates = rank < self._world_size
        if gates.any():
            delay_s = np.where(gates, 0.0, delay_s)
            open_s = self._ready_s[bucket[gates], rank[gates]]
            delay_s[gates] = np.maximum(open_s - self._env.now, 0.0)
        return delay_s

    def _delay_s(self, row: int) -> float:
        """Return the delay of one flow as for one schedule; a gate's ends when it is ready."""
        flow = row + self._agenda.flows.base
        bucket = bisect_right(self._gate_flows, flow) - 1
        rank = flow - self._gate_flows[bucket]
        if rank >= self._world_size:
            return super()._delay_s(row)
        return max(float(self._ready_s[bucket, rank]) - self._env.now, 0.0)

    def _leave(self, rows: IntArray) -> None:
        """Let ranks go on, and keep the time; that of a bucket's last place stays."""
        places = rows + self._agenda.places.base
        bucket = np.searchsorted(self._gate_places, places, "right") - 1
        ranks = self._agenda.places["rank"][rows]
        self.end_s[bucket, ranks] = self._env.now
        gates = places - np.array(self._gate_places)[bucket] < self._world_size
        self.start_s[bucket[gates], ranks[gates]] = self._env.now
        super()._leave(rows)

    def _leave_one(self, place: int) -> None:
        """Let one rank go on, and keep the time."""
        number = place + self._agenda.places.base
        bucket = bisect_right(self._gate_places, number) - 1
        rank = self._agenda.places.views["rank"][place]
        self.end_s[bucket, rank] = self._env.now
        if number - self._gate_places[bucket] < self._world_size:
            self.start_s[bucket, rank] = self._env.now
        super()._leave_one(place)
