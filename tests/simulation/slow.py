"""The fluid model again, slow and obvious: plain loops over every flow, for comparison only.

Nothing here is shared with the package: sharing fills one bottleneck after the other over all
flows, time goes from event to event, and a schedule is a list of sets of unfinished transfers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from dgc_topo.network import Network
from dgc_topo.schedule import Schedule
from dgc_topo.simulation import Sizes

SAME_INSTANT = 1e-13  #: relative: rounding, not time


def slow_max_min(
    routes: Sequence[Sequence[int]],
    capacity: Sequence[float],
    weights: Sequence[Sequence[float]] | None = None,
) -> list[float]:
    """Fill the smallest share first, freeze its flows, start again.

    *weights* say what a flow at rate 1 uses of each link of its route; 1 if left out.
    """
    used = [dict.fromkeys(route, 0.0) for route in routes]
    for flow, route in enumerate(routes):
        for place, link in enumerate(route):
            used[flow][link] += 1.0 if weights is None else weights[flow][place]
    rates = [math.inf] * len(routes)
    left = dict(enumerate(capacity))
    open_flows = {flow for flow, route in enumerate(routes) if route}
    while open_flows:
        users: dict[int, list[int]] = {}
        for flow in sorted(open_flows):
            for link in used[flow]:
                users.setdefault(link, []).append(flow)
        shares = {
            link: left[link] / sum(used[flow][link] for flow in flows)
            for link, flows in users.items()
        }
        tightest = min(shares, key=lambda link: (shares[link], link))
        for flow in users[tightest]:
            rates[flow] = shares[tightest]
            open_flows.remove(flow)
            for link, share in used[flow].items():
                left[link] -= share * shares[tightest]
    return rates


@dataclass
class SlowFlow:
    route: list[int]
    active_at: float
    num_bytes: float
    name: tuple[int, tuple[int, int]] | None = None
    finish: float = math.inf

    def __post_init__(self) -> None:
        self.remaining = self.num_bytes


@dataclass
class SlowFluid:
    network: Network
    now: float = 0.0
    flows: list[SlowFlow] = field(default_factory=list)

    def start(
        self, src: int, dst: int, num_bytes: float, at: float, name: tuple[int, tuple[int, int]]
    ) -> None:
        links = self.network.routes(np.array([src]), np.array([dst]))[0]
        route = [int(link) for link in links if link >= 0]
        latency = sum(float(self.network.latency_s[link]) for link in route)
        self.flows.append(SlowFlow(route, at + latency, num_bytes if route else 0.0, name))

    def next_ended(self) -> list[SlowFlow]:
        """Go to the next time at which flows end; return them."""
        while True:
            for flow in self.flows:  # ended by now: nothing left, and past the latency
                if flow.active_at <= self.now * (1 + SAME_INSTANT) and not flow.remaining:
                    flow.finish = self.now
            ended = [flow for flow in self.flows if flow.finish < math.inf]
            if ended:
                self.flows = [flow for flow in self.flows if flow.finish == math.inf]
                return ended
            self._next_event()

    def _next_event(self) -> None:
        active = [flow for flow in self.flows if flow.active_at <= self.now * (1 + SAME_INSTANT)]
        rates = slow_max_min(
            [flow.route for flow in active], list(self.network.bandwidth_bytes_per_s)
        )
        ends = [self.now + f.remaining / rate for f, rate in zip(active, rates, strict=True)]
        then = min([flow.active_at for flow in self.flows if flow not in active] + ends)
        for flow, rate, end in zip(active, rates, ends, strict=True):
            left = flow.remaining - rate * (then - self.now)
            flow.remaining = 0.0 if end <= then * (1 + SAME_INSTANT) else left
        self.now = then


def slow_flows(network: Network, flows: Sequence[tuple[int, int, float, float]]) -> list[float]:
    """Finish times of (src, dst, bytes, start)."""
    fluid = SlowFluid(network)
    for number, (src, dst, num_bytes, start) in enumerate(flows):
        fluid.start(src, dst, num_bytes, start, (number, (src, dst)))
    finish = [math.nan] * len(flows)
    while fluid.flows:
        for flow in fluid.next_ended():
            assert flow.name is not None
            finish[flow.name[0]] = flow.finish
    return finish


Pair = tuple[int, int]


class SlowRun:
    """A schedule as one dictionary of flows per step and sets of unfinished flows per rank."""

    def __init__(self, schedule: Schedule, network: Network, sizes: Sizes) -> None:
        self.fluid = SlowFluid(network)
        self.steps: list[dict[Pair, float]] = []
        for index, step in enumerate(schedule.steps()):
            flows: dict[Pair, float] = {}
            for transfer, num_bytes in zip(step, sizes.of_step(index, step).num_bytes, strict=True):
                pair = (transfer.src, transfer.dst)
                flows[pair] = flows.get(pair, 0.0) + float(num_bytes)
            self.steps.append(flows)
        self.todo = [
            [{pair for pair in flows if rank in pair} for flows in self.steps]
            for rank in range(schedule.world_size)
        ]
        self.at = [0] * schedule.world_size
        self.finish = [0.0] * schedule.world_size

    def run(self) -> list[float]:
        started: set[tuple[int, Pair]] = set()
        while True:
            for rank in range(len(self.at)):
                self.pass_idle_steps(rank)
            for index, flows in enumerate(self.steps):
                for pair in sorted(flows):
                    both = self.at[pair[0]] == self.at[pair[1]] == index
                    if both and (index, pair) not in started:
                        started.add((index, pair))
                        self.fluid.start(*pair, flows[pair], self.fluid.now, (index, pair))
            if not self.fluid.flows:
                assert set(self.at) == {len(self.steps)}
                return self.finish
            for flow in self.fluid.next_ended():
                self.end(flow)

    def pass_idle_steps(self, rank: int) -> None:
        while self.at[rank] < len(self.steps) and not self.todo[rank][self.at[rank]]:
            self.at[rank] += 1

    def end(self, flow: SlowFlow) -> None:
        assert flow.name is not None
        index, pair = flow.name
        for rank in pair:
            self.todo[rank][index].discard(pair)
            if not self.todo[rank][index]:
                self.finish[rank] = flow.finish


def slow_schedule(schedule: Schedule, network: Network, sizes: Sizes) -> list[float]:
    """When each rank finishes; no end costs."""
    return SlowRun(schedule, network, sizes).run()
