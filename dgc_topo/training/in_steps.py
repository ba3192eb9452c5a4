"""DGC's settings where a script's steps are known, but no epochs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from dgc_topo.compression.config import DGCConfig
from dgc_topo.scalars import plain_int

_STAGES = 4  #: of a geometric warm-up: the paper's number, since one for each step says nothing


def in_steps(
    where: str,
    warm_up_steps: int,
    settings: Mapping[str, Any],
    *,
    elsewhere: Collection[str] = (),
) -> dict[str, Any]:
    """Return settings of `DGCConfig` whose warm-up counts steps instead of epochs.

    Args:
        where: Name of the owner in errors.
        warm_up_steps: Optimizer steps of the warm-up; 0 for none.
        settings: Others of `DGCConfig`, by name; ``warm_up`` is the paper's by default.
        elsewhere: Those that the caller does not take.

    Raises:
        ValueError: if the number of steps is none, or does not fit ``warm_up``, or a setting is
            unknown.
    """
    names = {each.name for each in fields(DGCConfig)} | {"warm_up_steps"}
    known = sorted(names - {*elsewhere, "warm_up_epochs"})
    for name in settings:
        if name not in names and name != "warm_up_epochs":
            close = get_close_matches(name, known, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise ValueError(
                f"{where}: unknown setting {name!r}{hint}, expected one of {', '.join(known)}"
            )
    steps = plain_int(f"{where}: warm_up_steps", warm_up_steps, 0)
    warm_up = settings.get("warm_up", "paper" if steps else "none")
    if (warm_up != "none") != (steps > 0):
        raise ValueError(
            f"{where}: warm_up {warm_up!r} with warm_up_steps {steps}, expected both or "
            "neither: warm_up_steps is the length of the warm-up in optimizer steps"
        )
    stages = {"warm_up_stages": _STAGES} if warm_up == "geometric" else {}
    length = {"warm_up_epochs": float(steps)} if steps else {}
    return {**stages, **settings, "warm_up": warm_up, **length}
