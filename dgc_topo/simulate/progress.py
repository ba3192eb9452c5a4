"""A schedule under way: which rank has reached which step, and which transfers that starts.

A rank reaches a step when it has finished its part in the ones before; a transfer starts when
both its ends have reached the step; a rank's part in a step is finished when all its transfers,
sent and received, have ended (and what it received is added up).  There is no global barrier.

Steps are read from the schedule as late as possible and forgotten when finished.  A step has to
be read as soon as two ranks have nothing left to do in the steps read before: it may be those
two that talk next.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import simpy

from dgc_topo.schedule import Schedule, Step
from dgc_topo.simulate.agenda import OVER, Agenda, BoolArray, count_down
from dgc_topo.simulate.fluid import Fluid
from dgc_topo.simulate.network import FloatArray, IntArray
from dgc_topo.simulate.pattern import Pattern, Patterns
from dgc_topo.simulate.sizes import CodedSizes, Sizes, checked_sizes
from dgc_topo.simulate.tally import Tally


class Progress:
    """Owner of the flows of one schedule.

    Args:
        fluid: The network's flows.
        schedule: What to run.
        sizes: Bytes of each transfer.
        placement: Host of each rank, shape (world_size,).

    Attributes:
        finished: Event that succeeds when the last rank is done.
        finish_s: When each rank finished its last part, shape (world_size,).
        tally: Messages, bytes and what bounds them.
    """

    def __init__(self, fluid: Fluid, schedule: Schedule, sizes: Sizes, placement: IntArray) -> None:
        size = schedule.world_size
        self.finished: simpy.Event = fluid.env.event()
        self.finish_s = np.full(size, fluid.env.now, np.float64)
        self.tally = Tally(fluid.resources, fluid.network.costs, size)
        self._world_size = size
        self._fluid, self._env, self._costs = fluid, fluid.env, fluid.network.costs
        # Without shared processors a rank posts its messages one overhead after the other.
        self._staggers = self._costs.is_serial and self._costs.has_overhead
        self._number = fluid.add_owner(self)
        self._sizes = sizes
        self._steps: Iterator[tuple[int, Step]] = enumerate(schedule.steps())
        self._exhausted = False
        self._idle = size  # ranks with nothing to do in the steps read so far
        self._patterns = Patterns(fluid, size, placement)
        self._agenda = Agenda(size, fluid.resources.pad)
        self._have_begun = np.zeros(size, np.bool_)  # ranks that have taken a step of this run
        # Ranks whose first sparse message of its kind is behind them:
        self._have_made, self._have_read = np.zeros((2, size), np.bool_)

    def all_told(self) -> None:
        """Read the steps that might start now; the first call starts the schedule."""
        while self._idle >= min(2, self._world_size) and not self._exhausted:
            self._exhausted = not self._read_next()
        if self._exhausted and self._idle == self._world_size and not self.finished.triggered:
            self.finished.succeed()

    def stalled(self) -> tuple[list[tuple[int, int]], dict[int, float]]:
        """Return pairs of ranks (from, to) that dead links hold up, and since when each is dead."""
        tags, dead = self._fluid.stalled(self._number)
        flows, places = self._agenda.flows, self._agenda.places
        rows = np.sort(tags) - flows.base
        src, dst = (
            places["rank"][flows[end][rows] - places.base].tolist()
            for end in ("src_place", "dst_place")
        )
        return list(zip(src, dst, strict=True)), dead

    def _read_next(self) -> bool:
        """Read one more step; return False if there is none."""
        index, step = next(self._steps, (-1, None))
        if step is not None and len(step):
            self._read(index, step)
        return step is not None

    def ended(self, tags: IntArray) -> None:
        """Finish the places whose last flow has ended."""
        flows, places = self._agenda.flows, self._agenda.places
        rows = tags - flows.base
        flows["waiting"][rows] = OVER
        ends = np.concatenate([flows["src_place"][rows], flows["dst_place"][rows]])
        finished = count_down(places["open"], ends - places.base)
        if len(finished) and self._costs.has_merging and not self._costs.has_processors:
            self._stay_busy(finished)
        elif len(finished):
            self._leave(finished)

    def _stay_busy(self, rows: IntArray) -> None:
        """Leave places after the time it takes to add up what was received."""
        busy_s = self._agenda.places["busy_s"][rows]
        ids = rows + self._agenda.places.base
        order = np.argsort(busy_s, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(busy_s[order])) + 1):
            timeout = self._env.timeout(float(busy_s[group[0]]), ids[group])
            assert timeout.callbacks is not None
            timeout.callbacks.append(self._added_up)

    def _added_up(self, event: simpy.Event) -> None:
        ids: IntArray = np.asarray(event.value)
        self._leave(ids - self._agenda.places.base)
        self.all_told()

    def _leave(self, rows: IntArray) -> None:
        """Let ranks go on from finished places to their next ones."""
        places = self._agenda.places
        places["open"][rows] = OVER
        self.finish_s[places["rank"][rows]] = self._env.now
        following = places["next"][rows]
        following = following[following >= 0]
        self._idle += len(rows) - len(following)
        if len(following):
            posted, turn = self._agenda.ends_of(following - places.base)
            if self._staggers:
                rows = following - places.base
                start_s = np.repeat(places["start_s"][rows], places["num_ends"][rows])
                begun_s = self._env.now + self._costs.step_overhead_s + start_s
                when = begun_s + (1 + turn) * self._costs.overhead_s
                np.maximum.at(self._agenda.flows["posted_s"], posted, when)
            self._start(count_down(self._agenda.flows["waiting"], posted))

    def _start(self, rows: IntArray) -> None:
        """Start flows that stand in the tables."""
        if not len(rows):
            return
        flows = self._agenda.flows
        hops = np.array([flows[name][rows] for name in self._agenda.hop_names], np.int64)
        delay_s = self._until_posted(rows, flows["delay_s"][rows])
        tags = rows + flows.base
        self._fluid.start(hops, delay_s, flows["bytes"][rows], tags, self._number)

    def ended_one(self, tag: int) -> None:
        """As `ended`, for one flow."""
        if self._costs.is_serial:
            self.ended(np.array([tag]))
            return
        flows, places = self._agenda.flows.views, self._agenda.places.views
        row, base = tag - self._agenda.flows.base, self._agenda.places.base
        flows["waiting"][row] = OVER
        open_ = places["open"]
        for place in (flows["src_place"][row] - base, flows["dst_place"][row] - base):
            open_[place] -= 1
            if not open_[place]:
                open_[place] = OVER
                self.finish_s[places["rank"][place]] = self._env.now
                following = places["next"][place]
                if following < 0:
                    self._idle += 1
                else:
                    self._reach_one(following - base)

    def _reach_one(self, place: int) -> None:
        """Post the flows of one place; start those that the other end has posted."""
        agenda = self._agenda
        flows, places, ends = agenda.flows.views, agenda.places.views, agenda.ends.views["flow"]
        waiting, base = flows["waiting"], agenda.flows.base
        first = places["first_end"][place] - agenda.ends.base
        for end in range(first, first + places["num_ends"][place]):
            row = ends[end] - base
            waiting[row] -= 1
            if not waiting[row]:
                hops = [flows[name][row] for name in agenda.hop_names]
                delay_s, num_bytes = flows["delay_s"][row], flows["bytes"][row]
                self._fluid.start_one(hops, delay_s, num_bytes, row + base, self._number)

    def _read(self, index: int, step: Step) -> None:
        """Take a step into the tables and start what can start."""
        pattern, costs = self._patterns.of(step), self._costs
        num_bytes = checked_sizes(self._sizes, index, step)
        busy_s = self._busy_s(pattern, step, num_bytes)
        if not costs.has_processors:
            self._read_messages(pattern, num_bytes, busy_s)
            return
        before_s = self._before_s(pattern, step, num_bytes)
        if before_s.any():
            self._read_work(pattern.members, before_s)
        self._read_messages(pattern, num_bytes, None)
        if busy_s is not None and busy_s.any():
            busy = busy_s > 0
            members = pattern.members if busy.all() else pattern.members[busy]
            self._read_work(members, busy_s[busy])

    def _read_work(self, members: IntArray, work_s: FloatArray) -> None:
        """Let ranks be busy for so many CPU seconds before they go on."""
        pattern = self._patterns.of_work(members)
        self.tally.add_work(pattern, work_s)
        units = work_s / self._fluid.resources.work_unit_s
        self._take(pattern, units, pattern.latency_s, None)

    def _read_messages(
        self, pattern: Pattern, num_bytes: FloatArray, busy_s: FloatArray | None
    ) -> None:
        flow_bytes = num_bytes
        if pattern.flow_of is not None:
            flow_bytes = np.asarray(np.bincount(pattern.flow_of, num_bytes, pattern.num_flows))
        delay_s = pattern.latency_s
        if self._costs.message_curve:
            delay_s = delay_s + self._costs.extra_s(flow_bytes)
        start_s = self._start_s(pattern.members) if self._staggers else 0.0
        self.tally.add(num_bytes, pattern, flow_bytes, delay_s, busy_s, start_s)
        self._take(pattern, flow_bytes, delay_s, busy_s, start_s)

    def _take(
        self,
        pattern: Pattern,
        flow_bytes: FloatArray,
        delay_s: FloatArray,
        busy_s: FloatArray | None,
        start_s: FloatArray | float = 0.0,
    ) -> None:
        """Take flows into the tables and start those that can start."""
        first_flow = self._agenda.flows.end
        here = self._agenda.add(pattern, flow_bytes, delay_s, busy_s, start_s)
        self._idle -= int(here.sum())
        flows = self._agenda.flows
        rows = np.arange(first_flow, flows.end) - flows.base
        if self._staggers:
            flows["posted_s"][rows] = self._posted_s(pattern, here, start_s)
        if here.all():
            delay_s = self._until_posted(rows, delay_s)
            self._fluid.start(pattern.hops, delay_s, flow_bytes, rows + flows.base, self._number)
        else:
            self._start(rows[flows["waiting"][rows] == 0])

    def _posted_s(
        self, pattern: Pattern, here: BoolArray, start_s: FloatArray | float
    ) -> FloatArray:
        """Return when the ends whose ranks are here have all been posted: one after the other."""
        begun_s = self.finish_s[pattern.members] + self._costs.step_overhead_s + start_s
        reached_s = np.where(here, begun_s, -np.inf)
        src_turn, dst_turn = pattern.turns
        overhead_s = self._costs.overhead_s
        posted_s: FloatArray = np.maximum(
            reached_s[pattern.src_at] + (1 + src_turn) * overhead_s,
            reached_s[pattern.dst_at] + (1 + dst_turn) * overhead_s,
        )
        return posted_s

    def _until_posted(self, rows: IntArray, delay_s: FloatArray) -> FloatArray:
        """Return the delay of flows, from now, if it begins when both ends are posted."""
        if not self._staggers:
            return delay_s
        posted_s = self._agenda.flows["posted_s"][rows]
        return np.asarray(delay_s + np.maximum(posted_s - self._env.now, 0.0))

    def _before_s(self, pattern: Pattern, step: Step, num_bytes: FloatArray) -> FloatArray:
        """Return how long each member works until its messages of a step are posted."""
        costs = self._costs
        before_s = np.asarray(pattern.degree * costs.overhead_s + costs.step_overhead_s, np.float64)
        before_s += self._start_s(pattern.members)
        if costs.has_coding and isinstance(self._sizes, CodedSizes):
            made = _is_made(step)
            made_s = costs.code_s_per_message + num_bytes * costs.code_s_per_byte
            cold_s = self._cold_s(self._have_made, step.src[made])
            made_s = np.where(made, made_s, 0.0)
            before_s += (np.bincount(step.src, made_s, self._world_size) + cold_s)[pattern.members]
        return before_s

    def _start_s(self, members: IntArray) -> FloatArray:
        """Return what it costs each of a step's members that it begins the run; it has then."""
        start_s = np.where(self._have_begun[members], 0.0, self._costs.start_overhead_s)
        self._have_begun[members] = True
        return start_s

    def _cold_s(self, warm: BoolArray, ranks: IntArray) -> FloatArray:
        """Return what it costs each rank that some of them code a message; they are warm then."""
        cold_s = np.zeros(self._world_size)
        cold_s[ranks] = self._costs.cold_code_s
        cold_s[warm] = 0.0
        warm[ranks] = True
        return cold_s

    def _busy_s(self, pattern: Pattern, step: Step, num_bytes: FloatArray) -> FloatArray | None:
        """Return how long each member takes over what it has received in a step."""
        costs = self._costs
        cold_s: FloatArray | None = None
        adds = (step.keep != 0) & (step.weight != 0)
        if costs.has_coding and isinstance(self._sizes, CodedSizes):
            merged_s = costs.code_s_per_message + num_bytes * costs.code_s_per_byte
            merged_s = merged_s + adds * costs.merge_s_per_message
            sorts = self._sizes.are_sorted()
            per_byte_s = np.where(sorts, costs.sort_s_per_byte, costs.merge_s_per_byte)
            merged_s = merged_s + self._sizes.merged_bytes() * per_byte_s
            cold_s = self._cold_s(self._have_read, step.dst)
        elif costs.has_merging:
            per_byte_s = adds * costs.reduce_s_per_byte + _products(step) * costs.scale_s_per_byte
            merged_s = num_bytes * per_byte_s
        else:
            return None
        merged_s = merged_s + costs.receive_overhead_s
        busy_s = np.asarray(np.bincount(step.dst, merged_s, self._world_size), np.float64)
        if cold_s is not None:
            busy_s += cold_s
        return np.asarray(busy_s[pattern.members])


def _is_made(step: Step) -> BoolArray:
    """Return which transfers are the first of their run of chunks, which is made once for all."""
    if (step.src[1:] > step.src[:-1]).all():
        return np.ones(len(step), np.bool_)
    places = np.stack([step.src, step.chunk, step.count])
    _, first = np.unique(places, axis=1, return_index=True)
    made = np.zeros(len(step), np.bool_)
    made[first] = True
    return made


def _products(step: Step) -> IntArray:
    """Return by how many weights each transfer makes its receiver multiply."""
    weights, unit = np.stack([step.keep, step.weight]), step.denominator
    return np.asarray(((weights != 0) & (weights != unit)).sum(axis=0), np.int64)
