"""`run_in_process`: a schedule on all ranks' payloads in one process.

The arithmetic is that of the real run, bit for bit: the same messages and merges, in the same
order.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from dgc_topo.payload import Arrival, Payload, check_goal, passes_of
from dgc_topo.runtime.framing import wire_bytes
from dgc_topo.runtime.traffic import StepTraffic, Traffic
from dgc_topo.schedule import Schedule, Step
from dgc_topo.schedule.completion import Role


def run_in_process(schedule: Schedule, payloads: Sequence[Payload | None]) -> list[Traffic]:
    """Run *schedule* on one payload per rank, in place.

    Args:
        schedule: Schedule of ``len(payloads)`` ranks.
        payloads: One payload per rank, in the order of the ranks; None for ranks without transfers.

    Returns:
        Traffic of each rank in a real run (see `StepTraffic`), with the seconds of its own packing
        and merging; nobody waits.

    Raises:
        ValueError: if the number of payloads is not the schedule's world size, or a payload has no
            meaning after such a schedule.
    """
    if len(payloads) != schedule.world_size:
        raise ValueError(
            f"run in process: {len(payloads)} payloads, "
            f"expected {schedule.world_size}, one per rank"
        )
    own = {rank: payload for rank, payload in enumerate(payloads) if payload is not None}
    for payload in own.values():
        check_goal("run in process", payload, schedule.goal)
    ranks = [_Rank(rank) for rank in range(schedule.world_size)]
    for together in zip(*map(passes_of, own.values()), strict=True):
        _run_pass(schedule, dict(zip(own, together, strict=True)), ranks)
    return [rank.traffic() for rank in ranks]


def _run_pass(schedule: Schedule, payloads: Mapping[int, Payload], ranks: Sequence[_Rank]) -> None:
    agree = schedule.goal == "all-reduce"
    for rank, payload in payloads.items():
        payload.cut(schedule.num_chunks, agree=agree, role=Role(schedule, rank))
        ranks[rank].payload = payload
    for index, step in enumerate(schedule.steps()):
        _run_step(index, step, ranks)
    for payload in payloads.values():
        payload.finish()


class _Rank:
    """One rank's payload, mail and account."""

    payload: Payload

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.arrivals: list[Arrival] = []
        self.bytes_sent = self.bytes_received = self.messages_sent = 0
        self.busy_s = 0.0
        self.steps: list[StepTraffic] = []

    def traffic(self) -> Traffic:
        """Return the account of the whole run."""
        return Traffic(tuple(self.steps), sum(step.duration_s for step in self.steps))

    def finish(self, index: int) -> None:
        """Merge what has arrived and close the step's account."""
        start = time.perf_counter()
        if self.arrivals:
            self.payload.merge(self.arrivals, self.rank)
        self.busy_s += time.perf_counter() - start
        began = self.steps[-1].start_s + self.steps[-1].duration_s if self.steps else 0.0
        self.steps.append(
            StepTraffic(
                index,
                self.bytes_sent,
                self.bytes_received,
                self.messages_sent,
                began,
                self.busy_s,
                0.0,
            )
        )
        self.arrivals = []
        self.bytes_sent = self.bytes_received = self.messages_sent = 0
        self.busy_s = 0.0


def _run_step(index: int, step: Step, ranks: Sequence[_Rank]) -> None:
    touched: set[int] = set()
    for transfer in step:
        src, dst = ranks[transfer.src], ranks[transfer.dst]
        touched.update((src.rank, dst.rank))
        size = src.payload.message_bytes(transfer.chunk, transfer.count)
        if size == 0:  # not sent, as in the real run
            continue
        start = time.perf_counter()
        # A copy: the message may be a view of the sender's buffer, which merges in this step too.
        message = src.payload.pack(transfer.chunk, transfer.count).clone()
        src.busy_s += time.perf_counter() - start
        num_bytes = wire_bytes(message.numel(), sized=size is not None)
        src.bytes_sent += num_bytes
        src.messages_sent += 1
        dst.bytes_received += num_bytes
        dst.arrivals.append(Arrival(transfer, message.to(dst.payload.device)))
    for rank in sorted(touched):
        ranks[rank].finish(index)
