"""What others claim, set beside what is predicted."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from pydantic import Field, ValidationError

from dgc_topo.results.configuration import Configuration, predicted
from dgc_topo.results.measurement import Measurement
from dgc_topo.results.units import times_text
from dgc_topo.scenario.step import Section


class Claim(Section):
    """A speed-up that somebody published: throughput of one world size over another's."""

    source: str = Field(min_length=1, description="who says so, and where")
    workloads: tuple[str, ...] = Field(min_length=1, description="names of the workloads meant")
    compression: str = Field(min_length=1, description="as records call it: dense, dgc, ...")
    network: str = Field(min_length=1, description="name of a network")
    world_size: int = Field(ge=1)
    baseline_world_size: int = Field(ge=1, description="whose throughput counts as 1")
    relation: Literal["about", "more than"] = "about"
    speedup: float = Field(gt=0)
    note: str = Field(default="", description="why the prediction differs, if it does")


def claims_in(scenario_text: str) -> list[Claim]:
    """Return the claims in a scenario file; none if the text is no scenario."""
    try:
        return [Claim.model_validate(table) for table in tomllib.loads(scenario_text)["claims"]]
    except (KeyError, tomllib.TOMLDecodeError, ValidationError):
        return []


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
        and (r.workload, r.topology, r.options)
        == (record.workload, record.topology, record.options)
        and (r.network, r.world_size) == (claim.network, claim.baseline_world_size)
    ]
    return alike[0] if alike else None
