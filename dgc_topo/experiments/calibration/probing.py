"""Probe of the user's own machines: a calibration in short, and which interfaces carried it.

The cases are those of a calibration, without what would take too long, and so is the fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dgc_topo.experiments.calibration.calibrate import fit_network
from dgc_topo.experiments.calibration.cases import Case, DenseBuffer, Probe, probes
from dgc_topo.experiments.calibration.measure import Measured, measured, request, rounds_of
from dgc_topo.experiments.calibration.runs import Timed, time_cases
from dgc_topo.experiments.calibration.times import predict_case
from dgc_topo.network.calibrated import CalibratedNetwork, Parameters
from dgc_topo.runtime.interfaces import line_rate, sent_by_interface
from dgc_topo.units import rate_text, seconds_text
from dgc_topo.workers.group import Worker

_ROUNDS = 3
_FIT_STEPS = 8  #: enough for what the probes decide, in a quarter of the time
LONGEST_S = 2.0  #: of one case in one round
_FIRST_BYTES = 1_000_000  #: of the message that tells about how fast the network is
_BITS = 8
_LOOPBACK = "lo"
_BAD_FIT = 0.1  #: median error; calibrations of a lab at rest have 1 to 2 %, unshaped 7 %


class Carrier(NamedTuple):
    """Interface that carried a rank's messages.

    Attributes:
        interface: Its name.
        share: Part of the bytes that all of the rank's interfaces sent meanwhile.
        line_bits_per_s: Rate of its line; None if not known.
    """

    interface: str
    share: float
    line_bits_per_s: float | None


@dataclass(frozen=True, slots=True)
class ProbedNetwork:
    """A probe's findings.

    Attributes:
        network: Network that fits what was measured.
        latency_s: Seconds of the smallest message, one way, between the first two ranks.
        bandwidth_bits_per_s: Payload of large messages between them, one way.
        both_ways_bits_per_s: Payload in each direction while both are busy.
        carriers: Interface of each rank.
    """

    network: CalibratedNetwork
    latency_s: float
    bandwidth_bits_per_s: float
    both_ways_bits_per_s: float
    carriers: tuple[Carrier, ...]

    @property
    def is_loopback(self) -> bool:
        """True if no message left a machine."""
        return all(carrier.interface == _LOOPBACK for carrier in self.carriers)

    @property
    def lines(self) -> tuple[str, ...]:
        """Findings for people, a sentence each."""
        first, probes = self.carriers[0], self.network.probes
        both = self.both_ways_bits_per_s / self.bandwidth_bits_per_s
        found = [
            f"between ranks 0 and 1: {seconds_text(self.latency_s)} one way for the smallest "
            f"message, {rate_text(self.bandwidth_bits_per_s)} of payload for large ones, "
            f"{both:.0%} of that in each direction while both are busy",
            *(self._carrier_text(ranks) for ranks in self._alike()),
            f"{len(probes)} probes are fitted with a median error of "
            f"{self.network.median_fit_error:.1%}, worst {self.network.worst_fit_error:.0%}",
        ]
        if self.network.median_fit_error > _BAD_FIT:
            found.append(
                "the probes fit badly, so something else was using these machines or their "
                "network: probe again, intervals do not hold here"
            )
        if self.is_loopback:
            found.append(
                f"all ranks are on one machine: this is its loopback ({first.interface}), not a "
                "network; start one process on each machine"
            )
        return tuple(found)

    def as_dict(self) -> dict[str, object]:
        """Return the findings as plain numbers and texts."""
        return {
            "latency_s": self.latency_s,
            "bandwidth_bits_per_s": self.bandwidth_bits_per_s,
            "both_ways_bits_per_s": self.both_ways_bits_per_s,
            "interfaces": [each._asdict() for each in self.carriers],
            "is_loopback": self.is_loopback,
        }

    def _alike(self) -> list[list[int]]:
        """Return the ranks by interface and line."""
        groups: dict[tuple[str, float | None], list[int]] = {}
        for rank, each in enumerate(self.carriers):
            groups.setdefault((each.interface, each.line_bits_per_s), []).append(rank)
        return list(groups.values())

    def _carrier_text(self, ranks: Sequence[int]) -> str:
        each = self.carriers[ranks[0]]
        who = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"
        share = min(self.carriers[rank].share for rank in ranks)
        text = f"{each.interface} carries the messages of {who} ({share:.0%} of what was sent)"
        if each.line_bits_per_s is None:
            return f"{text}; its line rate is unknown"
        part = self.bandwidth_bits_per_s / each.line_bits_per_s
        return f"{text}; they reach {part:.0%} of its {rate_text(each.line_bits_per_s)}"


def probe(worker: Worker, name: str, *, longest_s: float = LONGEST_S) -> ProbedNetwork | None:
    """Measure messages between all ranks, one per machine; called on every rank.

    Args:
        worker: This rank.
        name: Name for the network.
        longest_s: Seconds of one case in one round; longer ones say little more.

    Returns:
        Findings on rank 0; None on the others.

    Raises:
        ValueError: if there is one rank only.
    """
    if worker.world_size == 1:
        raise ValueError("probe: one rank, expected at least 2, one on each machine")
    before = sent_by_interface()
    first = _time(worker, [_ping_pong(_FIRST_BYTES)])
    rate = _told_by_rank_0(worker, lambda: _bits_per_s(first[0]) if first else 0.0)
    cases = [
        case
        for case in probes(worker.world_size, rate)
        if case.runs * predict_case(case, Parameters(), rate) <= longest_s
    ]
    rows = _time(worker, cases)
    carrier = _carrier(before, sent_by_interface())
    carriers = worker.gather(Carrier, carrier, "asking which interfaces carried the messages")
    return _found(name, rows, carriers) if worker.rank == 0 else None


def _ping_pong(num_bytes: int) -> Case:
    buffer = DenseBuffer(num_elements=num_bytes // 4)
    return Case(pattern=Probe(kind="ping-pong"), world_size=2, buffer=buffer, runs=1)


def _time(worker: Worker, cases: Sequence[Case]) -> list[Measured]:
    """Return the measured cases on rank 0, nothing on the others."""
    timed = time_cases(worker, request(cases, _ROUNDS))
    per_rank = worker.gather(list[Timed], timed["timed"], "collecting the probes")
    if worker.rank != 0:
        return []
    found = zip(cases, rounds_of(cases, per_rank), strict=True)
    return [measured(case, rounds, 1) for case, rounds in found]


def _told_by_rank_0(worker: Worker, get: Callable[[], float]) -> float:
    """Return rank 0's value on every rank."""
    return worker.gather(float, get() if worker.rank == 0 else 0.0, "telling the rate")[0]


def _bits_per_s(row: Measured) -> float:
    """Return the payload of a ping-pong, or of one direction of an exchange."""
    return _BITS * row.bytes_sent / row.time_s * _SHARE_OF_TIME[row.case.label]


#: A ping-pong's rank sends in half of the time, an exchange's all the time.
_SHARE_OF_TIME = {"ping-pong": 2.0, "exchange": 1.0}


def _carrier(before: dict[str, int], after: dict[str, int]) -> Carrier:
    sent = {name: after[name] - before.get(name, 0) for name in after}
    name = max(sent, key=lambda each: sent[each])
    return Carrier(name, sent[name] / max(sum(sent.values()), 1), line_rate(name))


def _found(name: str, rows: Sequence[Measured], carriers: Sequence[Carrier]) -> ProbedNetwork:
    """Return the findings; the rate of the links is what large messages got."""
    dense = [row for row in rows if isinstance(row.case.buffer, DenseBuffer)]
    by_kind = {
        kind: sorted((r for r in dense if r.case.label == kind), key=lambda r: r.bytes_sent)
        for kind in _SHARE_OF_TIME
    }
    smallest, largest = by_kind["ping-pong"][0], by_kind["ping-pong"][-1]
    rate = _bits_per_s(largest)
    network = fit_network(name, [(rate, rows)], Parameters(), rate, most_steps=_FIT_STEPS)
    return ProbedNetwork(
        network,
        smallest.time_s / 2,
        rate,
        _bits_per_s(by_kind["exchange"][-1]),
        tuple(carriers),
    )
