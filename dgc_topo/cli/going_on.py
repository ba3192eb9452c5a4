"""The sentence that says how to go on, after a signal or a lost worker has ended a training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dgc_topo.experiments.continuation import is_begun
from dgc_topo.experiments.jobs import Part
from dgc_topo.python_files import AskedToEnd

_ANEW = "the same command begins anew: there is no checkpoint and no record yet"


@contextmanager
def saying_how_to_go_on(
    how: str, scenario: Path, output: Path | None, get_part: Callable[[], Part] | None = None
) -> Iterator[None]:
    """Add a note to the error, if a signal or the loss of a worker ends the block.

    Args:
        how: The sentence, where something is kept to go on with.
        scenario: The scenario file.
        output: Its results folder, if one is given.
        get_part: Function that returns the part of it that runs; None for all of it.
    """

    def sentence() -> str:
        begun = False
        with suppress(ValueError, OSError):  # the error that counts is there already
            begun = is_begun(scenario, output, get_part() if get_part else None)
        return how if begun else _ANEW

    try:
        yield
    except (KeyboardInterrupt, AskedToEnd) as ended:
        ended.add_note(sentence())
        raise
    except RuntimeError as error:
        # A LaunchError has the loss, an error of a rank itself its lost peers.
        if getattr(error, "loss", None) is not None or getattr(error, "peers", None):
            error.add_note(sentence())
        raise
