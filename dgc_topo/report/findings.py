"""Findings as sentences: does compression pay, which topology is fastest, do claims hold?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from dgc_topo.experiments.scenario.simulate import Claim
from dgc_topo.records.configuration import (
    Configuration,
    Setting,
    measured,
    networks,
    predicted,
)
from dgc_topo.records.measurement import EMULATED_COMPUTE, Measurement
from dgc_topo.units import seconds_text, three_digits, times_text


def findings(measurements: Iterable[Measurement]) -> list[str]:
    """Return one sentence per question that the records answer; each says measured or predicted."""
    records = list(measurements)
    return [
        *_emulated(measured(records)),
        *_against_dense(measured(records)),
        *_fastest_here(measured(records)),
        *(line for network in networks(records) for line in _all_on(network, predicted(records))),
    ]


def _emulated(records: Sequence[Measurement]) -> Iterator[str]:
    for workload in dict.fromkeys(record.workload for record in records):
        if workload.endswith(EMULATED_COMPUTE):
            yield (
                f"Measured: {workload}: workers waited as long as the model computes and sent "
                "random gradients of its shapes; nothing was learnt."
            )


def _against_dense(records: Sequence[Measurement]) -> Iterator[str]:
    """Compare every other run with the dense run of the same topology, size and seed.

    That is one by the topology's usual averaging rule.
    """
    dense = {_twin(record): record for record in records if _is_usual(record, "dense")}
    pairs: dict[str, list[tuple[Measurement, Measurement]]] = {}
    for record in records:
        twin = dense.get(_twin(record))
        if twin and twin is not record:
            label = Configuration.of(record).density_label
            pairs.setdefault(label, []).append((record, twin))
    for label, runs in pairs.items():
        savings = [
            twin.wire_bytes_per_step / record.wire_bytes_per_step
            for record, twin in runs
            if record.wire_bytes_per_step
        ]
        if savings:
            yield (
                f"Measured: {label} sends {_span(savings, times_text)} fewer bytes than dense on "
                f"the same topology{_quality_change(runs)}."
            )


def _is_usual(record: Measurement, compression: str) -> bool:
    """Return True if a record has a compression, and no averaging rule that a label has to name."""
    return record.compression == compression and not Configuration.of(record).averaging


def _twin(record: Measurement) -> tuple[object, ...]:
    configuration, setting = Configuration.of(record), Setting.of(record)
    where = setting.network, record.workers, record.time_scale, record.world_size, record.seed
    return *setting.work, configuration.topology, configuration.options, *where


def _quality_change(runs: Sequence[tuple[Measurement, Measurement]]) -> str:
    changes = [
        (record.quality.metric, record.quality.final - twin.quality.final)
        for record, twin in runs
        if record.quality and twin.quality and record.quality.metric == twin.quality.metric
    ]
    if not changes:
        return ""
    metric = changes[0][0]
    if metric == "accuracy":
        span = _span([100 * change for _, change in changes], lambda value: f"{value:+.1f}")
        return f" and changes final accuracy by {span} percentage points"
    return f" and changes final {metric} by {_span([c for _, c in changes], _signed)}"


def _fastest_here(records: Sequence[Measurement]) -> Iterator[str]:
    """Compare steps of the same work, by as many ranks on the same network."""
    groups: dict[tuple[object, ...], list[Measurement]] = {}
    for record in records:
        if record.workers == "processes":
            place = record.network, record.time_scale, record.world_size
            groups.setdefault((*Setting.of(record).work, *place), []).append(record)
    named = _names(records)
    for alike in groups.values():
        if len(alike) > 1:
            best = min(alike, key=lambda record: record.step_time_s)
            name = named[Setting.of(best).work]
            yield (
                f"Measured here, {f'{name}, ' if name else ''}{best.world_size} ranks on "
                f"{best.network}: {Configuration.of(best).label} has the shortest step, "
                f"{_step(best)}."
            )


def _all_on(network: str, records: Sequence[Measurement]) -> Iterator[str]:
    """Answer for each workload separately, because their speed-ups cannot be compared."""
    here = [record for record in records if record.network == network]
    for work, name in _names(here).items():
        alike = [record for record in here if Setting.of(record).work == work]
        yield from _fastest_on(f"{network}, {name}" if name else network, alike)


def _names(records: Sequence[Measurement]) -> dict[tuple[object, ...], str]:
    """Return a distinct name for each kind of work; no name if there is only one."""
    works = dict.fromkeys(Setting.of(record).work for record in records)
    if len(works) == 1:
        return dict.fromkeys(works, "")
    first = {work: next(r for r in records if Setting.of(r).work == work) for work in works}
    short = {work: record.workload for work, record in first.items()}
    if len(set(short.values())) == len(works):
        return short
    return {
        work: f"{record.scenario}, {record.workload}, batch {record.batch_size_per_worker}"
        for work, record in first.items()
    }


def _fastest_on(named: str, on_network: Sequence[Measurement]) -> Iterator[str]:
    largest = max(record.world_size for record in on_network)
    known = [r for r in on_network if r.world_size == largest and r.speedup is not None]
    # A step of gossip does less than an all-reduce, so its speed alone does not make it best.
    whole = [record for record in known if record.goal == "all-reduce"]
    what = "fastest all-reduce" if whole and len(whole) < len(known) else "fastest"
    known = whole or known
    dense = [record for record in known if record.is_dense]
    compressed = [record for record in known if not record.is_dense]
    if not known:
        return
    best = max(known, key=_throughput)
    start = (
        f"Predicted for {named}, {largest} ranks: {what} is {_reach(best)} one worker "
        f"({best.scaling_efficiency or 0:.0%} scaling efficiency)"
    )
    if not (dense and compressed):
        yield f"{start}."
    elif best.is_dense:
        other = max(compressed, key=_throughput)
        yield f"{start}; compression does not pay there (at best {_reach(other)})."
    else:
        other = max(dense, key=_throughput)
        # Not the ratio of the speed-ups: each is relative to its own run's lone worker.
        gain = times_text(best.samples_per_s / max(other.samples_per_s, 1e-12))
        yield f"{start}, {gain} the throughput of the best dense one ({_reach(other)})."


def _reach(record: Measurement) -> str:
    return f"{Configuration.of(record).label}, {times_text(record.speedup or 0)}"


def _throughput(record: Measurement) -> float:
    return record.samples_per_s


def _step(record: Measurement) -> str:
    return seconds_text(record.step_time_s)


def _signed(value: float) -> str:
    return f"{'+' if value >= 0 else '-'}{three_digits(abs(value))}"


def _span(values: Sequence[float], text: Callable[[float], str]) -> str:
    low, high = text(min(values)), text(max(values))
    return low if low == high else f"{low} to {high}"


def check_claims(claims: Iterable[Claim], records: Iterable[Measurement]) -> Iterator[str]:
    """Yield a sentence per claim: the claimed and the predicted speed-up, and the note."""
    forecast = predicted(records)
    for claim in claims:
        said = (
            f"{claim.source}: {claim.compression} on {claim.network}, {claim.world_size} ranks "
            f"against {claim.baseline_world_size}: {claim.relation} {times_text(claim.speedup)}"
        )
        found = [text for name in claim.workloads for text in _best_speedup(claim, name, forecast)]
        shown = "; ".join(found) or "nothing that fits"
        yield f"Predicted {shown}.  Claimed by {said}.{'  ' if claim.note else ''}{claim.note}"


def _best_speedup(claim: Claim, workload: str, records: Sequence[Measurement]) -> Iterator[str]:
    """Yield the largest speed-up over all topologies, if there is any."""
    meant = [r for r in records if r.workload == workload and _is_usual(r, claim.compression)]
    found: list[tuple[float, str]] = []
    for record in meant:
        if (record.network, record.world_size) != (claim.network, claim.world_size):
            continue
        base = _claimed_baseline(claim, record, records)
        if base is not None:
            topology = Configuration.of(record).topology_label
            found.append((record.samples_per_s / base.samples_per_s, topology))
    if found:
        speedup, topology = max(found)
        yield f"{times_text(speedup)} ({workload}, {topology})"


def _claimed_baseline(
    claim: Claim, record: Measurement, records: Sequence[Measurement]
) -> Measurement | None:
    """Return the dense record of the smaller world, by the same topology on the same network."""
    alike = [
        r
        for r in records
        if _is_usual(r, "dense")
        and (*Setting.of(r).work, r.topology, r.options, r.seed)
        == (*Setting.of(record).work, record.topology, record.options, record.seed)
        and (r.network, r.world_size) == (claim.network, claim.baseline_world_size)
    ]
    return alike[0] if alike else None
