"""One rank's part in measuring cases: runs on real processes, timed.

Cases run through the executor that training uses.  `time_cases` is called on every rank inside a
process group (see `dgc_topo.workers`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypedDict

import torch
import torch.distributed as dist
from pydantic import TypeAdapter

from dgc_topo.experiments.calibration.cases import Case, DenseBuffer, SparseBuffer
from dgc_topo.payload import MIXTURE, DensePayload, Payload, SparsePayload
from dgc_topo.runtime import Communicator, DistributedTransport, Traffic
from dgc_topo.topology import Topology
from dgc_topo.workers.group import Worker

CASES = TypeAdapter(list[Case])

_WARM_UP_ELEMENTS = 25_000
_FEW = 8  # entries are few if there are this many times as many elements

#: Seconds of all runs of a case, bytes sent in them, and the reference's seconds before and after
#: (0 without a reference, or on ranks that take no part in it).
Block = tuple[float, int, float, float]

#: A case's blocks, one per round; None for a rank that takes no part in it.
Timed = list[Block | None]


class Answer(TypedDict):
    """Times and traffic of one rank in a call.

    Attributes:
        timed: Blocks of each case.
        sent_bytes: Bytes sent in all runs, warming up and reference included.
        num_messages: Messages sent in all runs.
        num_barriers: Barriers between the runs.
    """

    timed: list[Timed]
    sent_bytes: int
    num_messages: int
    num_barriers: int


class _Runner:
    """One rank's side of a case; a first run with a short buffer has connected the ranks."""

    def __init__(
        self, case: Case, rank: int, transport: DistributedTransport, answer: Answer
    ) -> None:
        self._case, self._answer = case, answer
        schedule = case.schedule()
        topology = Topology(case.label, lambda world_size: schedule)
        self._communicator = Communicator(topology, transport, compare=False)
        self._payload = payload_maker(case, rank)
        short = min(case.buffer.num_elements, _WARM_UP_ELEMENTS)
        buffer = case.buffer.model_copy(update={"num_elements": short})
        self._run(payload_maker(case.model_copy(update={"buffer": buffer}), rank)())

    def timed(self) -> tuple[float, int]:
        """Return the seconds of all runs in a row, and the bytes this rank sent in them."""
        payloads = [self._payload() for _ in range(self._case.runs)]
        began = time.perf_counter()
        traffic = [self._communicator.run(payload) for payload in payloads]
        taken_s = time.perf_counter() - began
        return taken_s, sum(map(self._note, traffic))

    def _run(self, payload: Payload) -> None:
        self._note(self._communicator.run(payload))

    def _note(self, traffic: Traffic) -> int:
        """Add a run to the account, and return the bytes sent in it."""
        self._answer["sent_bytes"] += traffic.bytes_sent
        self._answer["num_messages"] += traffic.messages_sent
        return traffic.bytes_sent


def time_cases(worker: Worker, argument: dict[str, Any]) -> Answer:
    """Run every case once per round; the cases of a round follow each other.

    If a case has fewer ranks than there are, the first ranks run it while the others are idle.

    Args:
        worker: This rank.
        argument: ``cases`` (see `Case`); ``rounds``, a number; and ``reference``, a case to run
            before each of them and after the last, or None.

    Returns:
        For each case this rank's measurements by round, and everything that it sent.
    """
    cases = CASES.validate_python(argument["cases"])
    references = CASES.validate_python(list(filter(None, [argument["reference"]])))
    transports = _transports(worker, {case.world_size for case in (*cases, *references)})
    rounds = argument["rounds"]
    answer = Answer(timed=[[] for _ in cases], sent_bytes=0, num_messages=0, num_barriers=0)
    runners = [_runner(case, worker.rank, transports, answer) for case in cases]
    reference = [_runner(case, worker.rank, transports, answer) for case in references]
    for _ in range(rounds):
        before_s = _time_reference(worker, reference)
        for result, runner in zip(answer["timed"], runners, strict=True):
            worker.barrier("timing cases")
            timed = runner and runner.timed()
            after_s = _time_reference(worker, reference)
            result.append((*timed, before_s, after_s) if timed else None)
            before_s = after_s
    answer["num_barriers"] = rounds * (len(cases) + len(reference) * (len(cases) + 1))
    return answer


def _runner(
    case: Case, rank: int, transports: dict[int, DistributedTransport], answer: Answer
) -> _Runner | None:
    if rank >= case.world_size:
        return None
    return _Runner(case, rank, transports[case.world_size], answer)


def _time_reference(worker: Worker, reference: list[_Runner | None]) -> float:
    """Return the reference's seconds; 0 without one, or if this rank takes no part in it."""
    taken_s = 0.0
    for runner in reference:
        worker.barrier("timing the reference")  # on every rank
        if runner is not None:
            taken_s = runner.timed()[0]
    return taken_s


def _transports(worker: Worker, sizes: set[int]) -> dict[int, DistributedTransport]:
    """Return a transport of the first ranks for each world size that this rank is part of."""
    transports = {}
    for size in sorted(sizes):
        whole = size == worker.world_size
        group = None if whole else dist.new_group(list(range(size)), timeout=worker.timeout)
        if worker.rank < size:
            transports[size] = DistributedTransport(group, timeout=worker.timeout)
    return transports


def payload_maker(case: Case, rank: int) -> Callable[[], Payload]:
    """Return a function that makes a rank's payload for one run; payloads share memory.

    Dense buffers hold zeros, so that repeated sums stay finite.  The zeros are written, because the
    kernel maps all unwritten memory to one page, which would be in a cache.
    """
    buffer = case.buffer
    if isinstance(buffer, DenseBuffer):
        zeros = torch.full((buffer.num_elements,), 0.0)
        return lambda: DensePayload(zeros)
    indices = draw_entries(buffer, rank)
    values = torch.ones(len(indices))
    return lambda: SparsePayload(indices, values, buffer.num_elements, goals=MIXTURE)


def draw_entries(buffer: SparseBuffer, rank: int) -> torch.Tensor:
    """Return the sorted indices of a rank's entries, shape (num_entries,), int64."""
    generator = torch.Generator().manual_seed(rank)
    count, length = buffer.num_entries, buffer.num_elements
    if _FEW * count > length:
        return torch.sort(torch.randperm(length, generator=generator)[:count]).values
    # A permutation of a large buffer would take seconds.  Few entries are drawn twice.
    drawn: torch.Tensor = torch.empty(0, dtype=torch.int64)
    while len(drawn) < count:
        more = torch.randint(length, (count,), generator=generator)
        drawn = torch.unique(torch.cat([drawn, more]))
    kept = torch.randperm(len(drawn), generator=generator)[:count]
    return torch.sort(drawn[kept]).values
