"""Forms of checkpoints' contents: the parts that a file must hold, whatever its checksum says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dgc_topo.text import name_of
from dgc_topo.training.checkpoints.errors import CheckpointError

RANDOMS = ("torch", "numpy", "python")
_TRAINING = ("progress", "parameters", "strategy", "optimizer", "randoms", "ranks")
_RANK = (
    *("place", "own", "parameters", "averager", "statistics", "compressors"),
    *("task", "randoms", "records"),
)


def check_training(content: Any) -> None:
    """Refuse a content that is not a process's part of a training.

    Raises:
        CheckpointError: naming what is missing.
    """
    _check("the content", content, _TRAINING)
    _check("randoms", content["randoms"], RANDOMS)
    _check("ranks", content["ranks"], ())
    for rank, state in content["ranks"].items():
        _check(f"ranks.{rank}", state, _RANK)


def check_own(content: Any) -> None:
    """Refuse a content that `save` has not made, likewise."""
    _check("the content", content, ("ranks",))
    _check("ranks", content["ranks"], ())
    for rank, state in content["ranks"].items():
        _check(f"ranks.{rank}", state, ("objects", "randoms"))
        _check(f"ranks.{rank}.objects", state["objects"], ())
        _check(f"ranks.{rank}.randoms", state["randoms"], RANDOMS)


def _check(where: str, part: Any, keys: tuple[str, ...]) -> None:
    if not isinstance(part, Mapping):
        raise CheckpointError(f"{where}: {type(part).__name__}, expected a dictionary")
    missing = [key for key in keys if key not in part]
    if missing:
        raise CheckpointError(f"{where}: has no {', '.join(missing)}, expected them there")


@contextmanager
def same_form(where: Path) -> Iterator[None]:
    """Turn what a state of another form makes its reader stumble over into an error.

    Raises:
        CheckpointError: instead of a KeyError and the like.
    """
    try:
        yield
    except (LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{where}: a part of the checkpoint has another form ({name_of(error)}), expected that "
            "of this dgc-topo and of these settings"
        ) from error
