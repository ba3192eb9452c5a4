"""What every command shares: the console, errors as one clear message, and option parsing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

from dgc_topo.topology import Topology, load_topology

console = Console()
errors = Console(stderr=True)

_USER_ERROR = 2
_INTERRUPTED = 130


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn errors that a user can mend into one message and exit status 2, without a traceback."""
    try:
        yield
    except (ValueError, RuntimeError, OSError) as error:
        errors.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(_USER_ERROR) from error
    except KeyboardInterrupt:
        errors.print("interrupted; every worker process has been ended")
        raise typer.Exit(_INTERRUPTED) from None


def topology_from(name: str, options: Iterable[str]) -> Topology:
    """Return the topology *name* with options given as ``key=value``.

    Raises:
        ValueError: if an option is not of that form, or the topology does not take it.
    """
    parsed: dict[str, str | int | float | bool] = {}
    for option in options:
        key, separator, value = option.partition("=")
        if not separator or not key:
            raise ValueError(f"--option {option!r}: expected key=value")
        parsed[key] = value
    return load_topology(name, parsed)
