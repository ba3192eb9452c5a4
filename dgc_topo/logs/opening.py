"""`open_logs`: callbacks by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dgc_topo.logs.callbacks import Callback, Callbacks
from dgc_topo.logs.files import CsvLog
from dgc_topo.logs.services import TensorBoardLog, WandbLog
from dgc_topo.python_files import CodeError, explained, load_function, split_name

LOGS = ("csv", "tensorboard", "wandb")

#: Packages that logs need, and the words that install them.
_NEEDS = MappingProxyType(
    {"tensorboard": "pip install 'dgc-topo[tensorboard]'", "wandb": "pip install wandb"}
)


def check_logs(names: Iterable[str], folder: str | Path = "") -> None:
    """Refuse logs that cannot be opened, before a training begins.

    Args:
        names: Some of `LOGS`, or ``file.py:NAME``.
        folder: Folder in which a file's relative path begins.

    Raises:
        ValueError: naming the log, and what installs its package.
    """
    names = list(names)
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"log {name!r}: {names.count(name)} times, expected each log once")
        if split_name(name) is not None:
            function = load_function(name, folder, key="log")
            if isinstance(function, type) and not hasattr(function, "on_step"):
                raise CodeError(f"log: {name}: has no method on_step(step), expected one")
        elif name not in LOGS:
            raise ValueError(f"log {name!r}: expected one of {', '.join(LOGS)}, or file.py:NAME")
        elif name in _NEEDS and find_spec(name) is None:
            raise ValueError(f"log {name!r}: {name} is not installed, expected it: {_NEEDS[name]}")


def open_logs(
    names: Iterable[str],
    folder: str | Path,
    *,
    name: str | None = None,
    project: str = "dgc-topo",
    config: Mapping[str, object] = MappingProxyType({}),
    code_folder: str | Path = "",
) -> Callbacks:
    """Return callbacks that log the steps of one training, each into its own files.

    Tell it about every step and close it at the end, or use it as a context::

        with dt.open_logs(["csv", "tensorboard"], "logs/first") as log:
            ...
            log.on_step(dt.StepInfo(step=step, loss=loss.item(), learning_rate=0.1))

    Args:
        names: Some of

            - ``csv``: ``steps.csv`` and ``evaluations.csv`` in *folder*;
            - ``tensorboard``: event files in *folder*;
            - ``wandb``: a run of Weights & Biases, whose files are beside *folder*; its id is in
              *folder*, so that a training that goes on goes on in its run;
            - ``file.py:NAME``: a class of your own, made with *folder*, that has ``on_step``.
        folder: Folder of this training's logs; made if it is missing.
        name: Name of the run; the folder's by default.
        project: Name of the project, for Weights & Biases.
        config: Settings of the run, likewise.
        code_folder: Folder in which the path of ``file.py:NAME`` begins.

    Raises:
        ValueError: if there is no such log, or its package is not installed.

    Example:
        >>> with dt.open_logs(["csv"], "logs") as log:
        ...     log.on_step(dt.StepInfo(step=1, loss=2.3))
    """
    names = [names] if isinstance(names, str) else list(names)
    check_logs(names, code_folder)
    place = Path(folder)
    called = name or place.resolve().name
    made: list[Callback] = []
    for each in names:
        if each == "csv":
            made.append(CsvLog(place))
        elif each == "tensorboard":
            made.append(TensorBoardLog(place))
        elif each == "wandb":
            made.append(WandbLog(place, called, project, config))
        else:
            made.append(_own(each, load_function(each, code_folder, key="log"), place))
    return Callbacks(made)


def _own(name: str, function: Callable[..., Any], folder: Path) -> Callback:
    folder.mkdir(parents=True, exist_ok=True)
    with explained(f"log: {name}"):
        made: Callback = function(folder)
    if not callable(getattr(made, "on_step", None)):
        raise CodeError(f"log: {name}: made {type(made).__name__}, expected a method on_step(step)")
    return made
