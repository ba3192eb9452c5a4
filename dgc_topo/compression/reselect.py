"""Re-selection: of the merged sum only the best is applied, the rest goes back to its owners.

Many ranks together send far more elements than one does.  With re-selection every rank keeps the
same few of the final sum, and takes back what it had sent itself of all the others: an element is
either applied with every rank's share, or with none, so no share is lost or counted twice whatever
the topology.  (Shi et al., gTop-k, ICDCS 2019, reject *partial* sums as well; that saves bytes, but
a share rejected on the way is lost if another path carries the element to the end.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from dgc_topo.compression.accumulation import Accumulation
from dgc_topo.compression.arrays import constant, places_of
from dgc_topo.compression.groups import Groups
from dgc_topo.compression.trim import trim
from dgc_topo.payload import Entries


class Reselection:
    """One rank's part: it knows what the rank has sent, and gives the rejected back to it.

    Args:
        accumulation: Takes back what is rejected.
        groups: Which elements compete with each other.
    """

    def __init__(self, accumulation: Accumulation, groups: Groups) -> None:
        self._accumulation, self._groups = accumulation, groups
        self._own: Entries | None = None

    def note_sent(self, own: Entries) -> None:
        """Note what this rank sends in this step."""
        self._own = own

    def apply(self, total: Tensor, density: float) -> None:
        """Leave only the best of the sum, and take back what this rank sent of the rest.

        Args:
            total: Shape (length,), float32; changed in place.
            density: Fraction of each group to keep.
        """
        indices = places_of(total != 0)
        best = best_entries(Entries(indices, total[indices]), self._groups, density)
        total.zero_()[best.indices] = best.values
        if self._own is not None:  # a rank that only serves has sent nothing
            self._accumulation.give_back(*without(self._own, best.indices))
            self._own = None


def best_entries(merged: Entries, groups: Groups, density: float) -> Entries:
    """Return the largest magnitudes of each group: as many as one rank sends.

    Ranks with the same sum keep the same entries; of equal magnitudes the lower indices.
    """
    device = merged.values.device
    ends = torch.searchsorted(merged.indices, constant(groups.offsets[1:], device))
    counts = constant(tuple(groups.counts(density)), device)
    places = trim(merged.values.abs(), ends, counts).places
    return Entries(merged.indices[places], merged.values[places])


def without(own: Entries, kept: Tensor) -> Entries:
    """Return the entries of *own* whose indices are not among *kept*."""
    rejected = torch.isin(own.indices, kept, assume_unique=True, invert=True)
    return Entries(own.indices[rejected], own.values[rejected])
