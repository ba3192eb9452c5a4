"""Sections ``[simulate]`` and ``[[claims]]``: predictions, and published speed-ups to compare."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from dgc_topo.experiments.scenario.step_keys import StepKeys, WorkloadChoice
from dgc_topo.sizes import is_sparse
from dgc_topo.tables.keys import EachOnce
from dgc_topo.tables.places import FolderOfScenario, Label
from dgc_topo.tables.table import NewKey, Table
from dgc_topo.training.compression import CompressionSection

#: Keys of a step of [[simulate.workloads]]; a measured run of [train] has its own values.
_OF_WORKLOADS = (
    "dense_dtypes",
    "accumulation_steps",
    "encode_s_per_element",
    "decode_s_per_element",
    "union_exponent",
)
_OF_COMPRESSED = ("encode_s_per_element", "decode_s_per_element", "union_exponent")
#: Keys of [compression] that predictions of [[simulate.workloads]] use.
_PREDICTED = ("method", "densities", "wire_dtype", "index_encoding", "scope", "merge", "balance")


class SimulateSection(StepKeys):
    """Networks and world sizes to predict for, and the keys of a simulated step."""

    old_keys: ClassVar = {"overlap_exponent": NewKey("union_exponent", table="simulate")}

    networks: Annotated[tuple[str, ...], EachOnce] = Field(
        min_length=1, description="fabrics, names of [[networks]], or network files"
    )
    folder_of_networks: FolderOfScenario = ""
    world_sizes: Annotated[tuple[Annotated[int, Field(ge=1, le=2**20)], ...], EachOnce] = Field(
        min_length=1, description="numbers of ranks, dedicated servers included"
    )
    workloads: tuple[WorkloadChoice, ...] = Field(
        default=(), description="without these, what [train] measured is scaled"
    )
    union_exponent: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="growth of sparse unions for [[simulate.workloads]]: c workers' entries merge "
        "into c**exponent times one worker's (1: disjoint, 0: identical)",
    )

    @model_validator(mode="after")
    def _workloads_have_names_of_their_own(self) -> Self:
        labels = [workload.label for workload in self.workloads]
        for index, label in enumerate(labels):
            if label in labels[:index]:
                first = labels.index(label)
                raise ValueError(
                    f"workloads.{index}.name: {label!r} is that of workloads.{first}, too; "
                    "expected a name of its own, such as "
                    f"name = '{label}-{self.workloads[index].batch_size_per_worker or index}'"
                )
        return self

    @model_validator(mode="after")
    def _what_overlaps_has_layers(self) -> Self:
        for index, workload in enumerate(self.workloads):
            if self.overlap and workload.model is None:
                raise ValueError(
                    f"overlap = true: workloads.{index} ({workload.label}) is given by counts, "
                    "without layers, so nobody knows when which gradients are ready; expected a "
                    "model of the zoo there, or overlap = false"
                )
        return self

    @model_validator(mode="after")
    def _slow_ranks_exist(self) -> Self:
        for index, each in enumerate(self.slow_ranks):
            if each.rank >= max(self.world_sizes):
                raise ValueError(
                    f"slow_ranks.{index}.rank: {each.rank} is in none of the worlds, expected 0 to "
                    f"{max(self.world_sizes) - 1}"
                )
        return self


def refuse_idle_keys(
    simulate: SimulateSection, compression: CompressionSection, *, trains: bool
) -> None:
    """Refuse keys for predictions that would have no effect.

    Args:
        simulate: Section ``[simulate]``.
        compression: Section ``[compression]``.
        trains: True if the scenario trains as well.

    Raises:
        ValueError: naming the key, and what would give it an effect.
    """
    if not simulate.workloads:
        for key in _changed_keys(simulate, _OF_WORKLOADS):
            raise ValueError(
                f"simulate.{key}: is for [[simulate.workloads]]; what [train] measures is "
                "predicted as it was trained, expected no such key"
            )
        return
    _refuse_other_methods(compression, trains=trains)
    if not any(map(is_sparse, compression.densities)):
        where = [f"simulate.{key}" for key in _changed_keys(simulate, _OF_COMPRESSED)]
        where += [
            f"simulate.workloads.{index}.union_exponent"
            for index, workload in enumerate(simulate.workloads)
            if workload.union_exponent is not None
        ]
        for key in where:
            raise ValueError(f"{key}: nothing is compressed, expected a density below 1")
    elif all(workload.union_exponent is not None for workload in simulate.workloads):
        for key in _changed_keys(simulate, ("union_exponent",)):
            raise ValueError(f"simulate.{key}: each workload has its own, expected no such key")
    if simulate.dense_dtypes and all(map(is_sparse, compression.densities)):
        raise ValueError("simulate.dense_dtypes: nothing is sent dense, expected a density of 1")


def _refuse_other_methods(compression: CompressionSection, *, trains: bool) -> None:
    """Refuse compression that cannot be predicted for workloads; only dense and DGC's union can."""
    if compression.method != "dgc":
        raise ValueError(
            f"compression.method = {compression.method!r}: [[simulate.workloads]] are predicted "
            "dense and with 'dgc' only, expected 'dgc'"
        )
    if not trains:
        if compression.balance and compression.merge != "union":
            raise ValueError(
                "compression.balance: of re-selected sums it decides what is kept, which no "
                "prediction knows, expected [train], merge = 'union' or no such key"
            )
        idle = [key for key in CompressionSection.model_fields if key not in _PREDICTED]
        for key in _changed_keys(compression, idle):
            raise ValueError(
                f"compression.{key}: nothing is trained, expected [train] or no such key"
            )


def _changed_keys(section: BaseModel, keys: tuple[str, ...] | list[str]) -> Iterator[str]:
    """Yield those of the *keys* whose values differ from the defaults."""
    fields = type(section).model_fields
    return (key for key in keys if getattr(section, key) != fields[key].default)


class Claim(Table):
    """A published speed-up: throughput at one world size over that at another."""

    source: Label = Field(description="who says so, and where")
    workloads: Annotated[tuple[str, ...], EachOnce] = Field(
        min_length=1, description="names of the workloads meant"
    )
    compression: Label = Field(description="as records call it: dense, dgc, ...")
    network: Label = Field(description="name of a network")
    world_size: int = Field(ge=1, description="whose throughput is compared")
    baseline_world_size: int = Field(ge=1, description="whose throughput counts as 1")
    relation: Literal["about", "more than"] = Field(
        default="about", description="of the speed-up to the number below"
    )
    speedup: float = Field(gt=0, description="throughput over that of the baseline")
    note: str = Field(default="", description="why the prediction differs, if it does")


def check_claims(claims: Sequence[Claim], simulate: SimulateSection | None) -> None:
    """Refuse claims about what is not predicted.

    Args:
        claims: Published speed-ups.
        simulate: Section that says what is predicted.

    Raises:
        ValueError: naming the claim, and what is not predicted.
    """
    for index, claim in enumerate(claims):
        wanted = {
            "workloads": set(claim.workloads),
            "network": {claim.network},
            "world sizes": {str(claim.world_size), str(claim.baseline_world_size)},
        }
        there: dict[str, set[str]] = {}
        if simulate is not None:
            there["workloads"] = {each.label for each in simulate.workloads}
            there["network"] = set(simulate.networks)
            there["world sizes"] = set(map(str, simulate.world_sizes))
        for what, names in wanted.items():
            if missing := sorted(names - there.get(what, set())):
                raise ValueError(
                    f"claims.{index}: {what} {', '.join(missing)}: not among those of [simulate]"
                )


def claims_in(scenario_text: str) -> list[Claim]:
    """Return the claims in a scenario file; none if the text is no scenario."""
    try:
        return [Claim.model_validate(table) for table in tomllib.loads(scenario_text)["claims"]]
    except (KeyError, tomllib.TOMLDecodeError, ValidationError):
        return []
