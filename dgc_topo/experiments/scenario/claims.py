"""What others claim, in a scenario."""

from __future__ import annotations

import tomllib
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from dgc_topo.tables.keys import EachOnce
from dgc_topo.tables.places import Label
from dgc_topo.tables.table import Table


class Claim(Table):
    """A speed-up that somebody published: throughput of one world size over another's."""

    source: Label = Field(description="who says so, and where")
    workloads: Annotated[tuple[str, ...], EachOnce] = Field(
        min_length=1, description="names of the workloads meant"
    )
    compression: Label = Field(description="as records call it: dense, dgc, ...")
    network: Label = Field(description="name of a network")
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
