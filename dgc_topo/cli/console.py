"""Console of all commands: printing, and errors as one clear message."""

from __future__ import annotations

import json
import math
import os
import re
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, Final

import typer
from rich.console import Console, ConsoleDimensions
from rich.text import Text

from dgc_topo.cli import streams
from dgc_topo.python_files import AskedToEnd
from dgc_topo.text import name_of, printable

if TYPE_CHECKING:
    from dgc_topo.topology import Topology

HELP_MARKUP: Final = (
    "markdown"  #: for help texts: rich's own markup would remove a "[train]" from them
)

_USER_ERROR = 2
_INTERRUPTED = 130
_TRACEBACK = "DGC_TOPO_TRACEBACK"  # set in the environment: errors are shown with a traceback
_NARROWEST = 40  # columns; narrower tables cut words off
_UNBOUNDED = 10_000  # columns; a file or a pipe has no width
_COLUMNS, _LINES = 80, 25  # lines of a terminal whose height is unknown


class PlainConsole(Console):
    """A console that shows text as it was written: no markup, no emoji, no wrapping in files."""

    def __init__(self, *, stderr: bool = False) -> None:
        self._fixed_size: ConsoleDimensions | None = None
        # Sizes are given here, or a strange COLUMNS would be read; `size` is what counts.
        plain = {"markup": False, "emoji": False, "highlight": False, "force_jupyter": False}
        super().__init__(stderr=stderr, width=_UNBOUNDED, height=_LINES, **plain)  # type: ignore[arg-type]

    @property
    def file(self) -> IO[str]:
        """Stream that the console prints to."""
        return super().file if self.stderr or self._file is not None else streams.stdout()

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file

    @property
    def size(self) -> ConsoleDimensions:
        """Columns and lines of the output: the terminal's, or fixed numbers without a terminal."""
        if self._fixed_size is not None:
            return self._fixed_size
        if not self.is_terminal:
            return ConsoleDimensions(_UNBOUNDED, _LINES)
        try:
            columns, lines = os.get_terminal_size(self.file.fileno())
        except (OSError, ValueError):  # colours are forced into a file
            columns, lines = 0, 0
        with suppress(KeyError, ValueError):
            columns = int(os.environ["COLUMNS"])
        return ConsoleDimensions(max(columns or _COLUMNS, _NARROWEST), lines or _LINES)

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self._fixed_size = ConsoleDimensions(*new_size)

    def render_str(self, text: str, **how: Any) -> Text:
        """Return *text* as rich shows it, without control characters that a terminal would obey."""
        return super().render_str(printable(text), **how)

    def print_named(self, name: str, text: str, style: str) -> None:
        """Print *text* after a coloured ``name:``; only a terminal wraps the line."""
        line = Text.assemble((f"{name}:", style), " ", printable(text))
        self.print(line, soft_wrap=True)


console = PlainConsole()
errors = PlainConsole(stderr=True)


def print_raw(text: str) -> None:
    """Print *text* exactly as it is, for programs and for pasting."""
    out = streams.stdout()
    out.write(text)
    out.flush()


def print_json(value: object, indent: int | None = None) -> None:
    """Print *value* as JSON; infinities and NaN become null, because JSON has neither."""
    print_raw(json.dumps(_finite(value), indent=indent, allow_nan=False) + "\n")


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value


@contextmanager
def clear_errors() -> Iterator[None]:
    """Run a command's body: keep standard output for it, and turn its errors into one message.

    Errors that the user can correct, and numbers too large for this machine, end with exit status 2
    and without a traceback (unless ``DGC_TOPO_TRACEBACK`` is set).  Warnings become one line each.
    """
    with streams.own_stdout(), _clear_warnings():
        try:
            yield
        except (ValueError, RuntimeError, OSError) as error:
            raise _report(error, _with_notes(str(error), error)) from error
        except MemoryError as error:
            raise _report(
                error, f"this takes more memory than there is ({name_of(error)})"
            ) from error
        except OverflowError as error:
            raise _report(error, f"a number is too large ({name_of(error)})") from error
        except KeyboardInterrupt as interrupt:
            said = _with_notes("interrupted; every worker process has been ended", interrupt)
            errors.print(said, soft_wrap=True)
            raise typer.Exit(_INTERRUPTED) from None
        except AskedToEnd as asked:
            said = _with_notes("asked to end; every worker process has been ended", asked)
            errors.print(said, soft_wrap=True)
            raise


def _with_notes(said: str, error: BaseException) -> str:
    between = "\n" if "\n" in said else "; "
    return between.join([said, *getattr(error, "__notes__", ())])


def _report(error: Exception, text: str) -> typer.Exit:
    """Print an error, and return the exception that ends the command."""
    if os.environ.get(_TRACEBACK):
        traceback.print_exception(error)
    errors.print_named("error", text, "bold red")
    return typer.Exit(_USER_ERROR)


@contextmanager
def about(what: str) -> Iterator[None]:
    """Put *what* in front of the errors of a schedule, and of errors that say only "too large".

    Raises:
        ValueError: instead of a ScheduleError, MemoryError, OverflowError or RecursionError.
    """
    from dgc_topo.schedule import ScheduleError

    try:
        yield
    except ScheduleError as error:
        named = str(error).startswith(what)
        raise ValueError(str(error) if named else f"{what}: {error}") from error
    except (MemoryError, OverflowError, RecursionError) as error:
        raise ValueError(f"{what}: more than this machine can do ({name_of(error)})") from error


@contextmanager
def _clear_warnings() -> Iterator[None]:
    """Print what is warned of on stderr, each in one line and once."""
    told: set[str] = set()

    def print_once(message: Warning | str, *_: object, **__: object) -> None:
        text = str(message)
        if text not in told:
            told.add(text)
            errors.print_named("warning", text, "bold yellow")

    with warnings.catch_warnings():
        warnings.filterwarnings("always", category=UserWarning, module="dgc_topo")
        warnings.showwarning = print_once
        yield


@contextmanager
def naming_options(options: Mapping[str, str]) -> Iterator[None]:
    """Begin errors with the options of a command, not with the library's arguments.

    Args:
        options: Option that gives each argument, such as ``{"density": "--density"}``.

    Raises:
        ValueError: for one that begins with the name of such an argument.
    """
    try:
        yield
    except ValueError as error:
        text = str(error)
        for argument, option in options.items():
            if re.match(rf"{argument}\b", text):
                raise ValueError(option + text.removeprefix(argument)) from error
        raise


def topology_from(text: str, options: Iterable[str]) -> Topology:
    """Return the topology named by *text*, with further *options* given as ``key=value``.

    Raises:
        ValueError: if an option has another form, or the topology or option does not exist.
    """
    from dgc_topo.topology import Topology

    return Topology.parse(text, options=options)
