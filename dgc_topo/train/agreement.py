"""Whether ranks that should agree do: in what they are asked to do, and bit for bit in the end."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dgc_topo.payload import BundlePayload, DensePayload, Payload, SparsePayload, TernaryPayload
from dgc_topo.scenario import Scenario, TopologyChoice

_OF_A_MACHINE = {"data_path"}  #: of ``[train]``: may be another on every machine


def compared_settings(scenario: Scenario) -> dict[str, Any]:
    """Return what has to be the same on every rank that trains, by its key in the scenario.

    A topology's file is compared by its content: it may lie elsewhere on another machine.
    """
    sections = {
        "seed": scenario.seed,
        "train": scenario.train and scenario.train.model_dump(mode="json", exclude=_OF_A_MACHINE),
        "compression": scenario.compression.model_dump(mode="json"),
        "topology": [_what_it_is(choice) for choice in scenario.topologies],
    }
    return dict(_flat("", sections))


def _what_it_is(choice: TopologyChoice) -> dict[str, Any]:
    if not choice.name.endswith(".py"):
        return choice.model_dump(mode="json")
    content = hashlib.sha256(Path(choice.name).read_bytes()).hexdigest()
    return {**choice.model_dump(mode="json", exclude={"name"}), "file with SHA-256": content[:16]}


def _flat(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the numbers and texts in nested settings with their dotted keys."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0]  # the one topology of a launch
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(f"{key}.{name}" if key else name, inner)
    else:
        yield key, value


def fingerprint(parameters: Mapping[str, Tensor]) -> str:
    """Return a digest of the parameters' bits."""
    digest = hashlib.sha256()
    for parameter in parameters.values():
        digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def same_bits(first: Payload, second: Payload) -> bool:
    """Return whether two sums are equal bit for bit."""
    match first, second:
        case BundlePayload(), BundlePayload():
            return all(map(same_bits, first.parts, second.parts))
        case DensePayload(), DensePayload():
            return torch.equal(_bits(first.buffer), _bits(second.buffer))
        case SparsePayload(), SparsePayload() if torch.equal(first.indices, second.indices):
            return torch.equal(_bits(first.values), _bits(second.values))
        case (SparsePayload() | TernaryPayload(), SparsePayload() | TernaryPayload()):
            # A run that arrived dense has entries of 0, too: where the entries are says nothing.
            return torch.equal(_bits(first.to_dense()), _bits(second.to_dense()))
    return False


def _bits(values: torch.Tensor) -> torch.Tensor:
    return values.view(torch.int32)  # NaN equals NaN
