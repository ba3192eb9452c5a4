"""Places of ranks in snapshots: what has not been sent belongs to one rank, and counts once."""

from __future__ import annotations

from collections.abc import Mapping


def check_place(where: str, saved: object, here: Mapping[str, int]) -> None:
    """Refuse the state of another rank, or of another number of ranks.

    Args:
        where: Name of the owner in errors.
        saved: Place in the state, by what it counts.
        here: Place of this rank.

    Raises:
        ValueError: naming both places.
    """
    if saved != here:
        found = dict(saved) if isinstance(saved, Mapping) else saved
        raise ValueError(
            f"{where} state: of {found}, expected {dict(here)}: each rank has a state of its own, "
            "and one of all would count what was not sent several times; dt.save and dt.load keep "
            "them apart, also for another number of ranks"
        )
