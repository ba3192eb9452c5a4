"""Parts of the optimizer's snapshots: their checks, and state that is put aside in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dgc_topo.compression.compressor import Sections
from dgc_topo.scalars import plain_int
from dgc_topo.training.carrying import sections_of


def as_snapshot(sections: Sections, like: Mapping[str, Any]) -> dict[str, Any]:
    """Return sections in the form of a compressor's snapshot, so that they are shared out as such.

    Args:
        sections: State of some parameters; empty stays empty.
        like: The snapshot of the others.
    """
    if not sections:
        return {}
    return {**{key: like[key] for key in like if key not in sections_of(like)}, **sections}


def check_sections(saved: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Refuse a compressor's snapshot that has other sections than the compressor here.

    Raises:
        ValueError: naming both.
    """
    found, expected = sorted(sections_of(saved)), sorted(sections_of(here))
    if found != expected:
        raise ValueError(
            f"compressor state: sections {found}, expected {expected}: a snapshot taken with the "
            "same settings"
        )


def check_state(where: str, own: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuse our part of a snapshot if it is of another rule or model, or counts no steps.

    Args:
        where: Name of the owner in errors.
        own: Our part.
        expected: Values that it has to hold.

    Raises:
        ValueError: naming what differs.
    """
    for key, value in expected.items():
        found = own.get(key)
        if found != value:
            told = f"{found!r}, expected {value!r} as here"
            if isinstance(found, list) and isinstance(value, list):
                told = _odd_ones(found, value)
            raise ValueError(f"{where} state: {key} {told}")
    for key in ("steps", "skipped_steps"):
        plain_int(f"{where} state: {key}", own.get(key))


def _odd_ones(found: list[Any], expected: list[Any], most: int = 4) -> str:
    """Return the names that only one of two lists has, or the first of them."""
    odd = [
        f"{name!r} {where}"
        for names, others, where in (
            (found, expected, "only in the snapshot"),
            (expected, found, "only here"),
        )
        for name in names
        if name not in others
    ]
    more = f" and {len(odd) - most} more" if len(odd) > most else ""
    return f"{', '.join(odd[:most])}{more}, expected the same names as here"
