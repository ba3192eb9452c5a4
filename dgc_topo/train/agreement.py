"""Whether ranks that should agree do: in what they are asked to do, and bit for bit in the end."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from dgc_topo.execute.compared import topology_settings
from dgc_topo.payload import BundlePayload, DensePayload, Payload, SparsePayload, TernaryPayload
from dgc_topo.scenario import Scenario

_OF_A_MACHINE = {"data_path", "folder"}  #: of ``[train]``: may be others on every machine


def compared_settings(scenario: Scenario) -> dict[str, Any]:
    """Return what has to be the same on every rank that trains, by its key in the scenario."""
    sections = {
        "train": scenario.train and scenario.train.model_dump(mode="json", exclude=_OF_A_MACHINE),
        "compression": scenario.compression.model_dump(mode="json"),
    }
    world_size = scenario.train.world_size if scenario.train else 1
    topologies = [
        topology_settings(choice.load(), world_size, scenario.seed)
        for choice in scenario.topologies
    ]
    # A launch has one.
    about = topologies[0] if len(topologies) == 1 else {"topologies": topologies}
    return {"seed": scenario.seed, **about, **dict(_flat("", sections))}


def _flat(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the numbers and texts in nested settings with their dotted keys."""
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
