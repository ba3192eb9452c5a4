"""Agreement of ranks, bit for bit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from dgc_topo.payload import BundlePayload, DensePayload, Payload, SparsePayload, TernaryPayload


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
