"""What others claim, set beside what is predicted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from dgc_topo.experiments.scenario.claims import Claim
from dgc_topo.records.configuration import Configuration, Setting, predicted
from dgc_topo.records.measurement import Measurement
from dgc_topo.units import times_text


def check_claims(claims: Iterable[Claim], records: Iterable[Measurement]) -> Iterator[str]:
    """Yield a sentence per claim: what is claimed, what is predicted, and the note."""
    forecast = predicted(records)
    for claim in claims:
        said = (
            f"{claim.source}: {claim.compression} on {claim.network}, {claim.world_size} ranks "
            f"against {claim.baseline_world_size}: {claim.relation} {times_text(claim.speedup)}"
        )
        found = [text for name in claim.workloads for text in _best(claim, name, forecast)]
        shown = "; ".join(found) or "nothing that fits"
        yield f"Predicted {shown}.  Claimed by {said}.{'  ' if claim.note else ''}{claim.note}"


def _best(claim: Claim, workload: str, records: Sequence[Measurement]) -> Iterator[str]:
    """Yield the largest speed-up over all topologies, if there is any."""
    meant = [r for r in records if (r.workload, r.compression) == (workload, claim.compression)]
    found: list[tuple[float, str]] = []
    for record in meant:
        if (record.network, record.world_size) != (claim.network, claim.world_size):
            continue
        base = _baseline(claim, record, records)
        if base is not None:
            topology = Configuration.of(record).topology_label
            found.append((record.samples_per_s / base.samples_per_s, topology))
    if found:
        speedup, topology = max(found)
        yield f"{times_text(speedup)} ({workload}, {topology})"


def _baseline(
    claim: Claim, record: Measurement, records: Sequence[Measurement]
) -> Measurement | None:
    """Return the dense record of the smaller world, by the same topology on the same network."""
    alike = [
        r
        for r in records
        if r.compression == "dense"
        and (*Setting.of(r).work, r.topology, r.options, r.seed)
        == (*Setting.of(record).work, record.topology, record.options, record.seed)
        and (r.network, r.world_size) == (claim.network, claim.baseline_world_size)
    ]
    return alike[0] if alike else None
