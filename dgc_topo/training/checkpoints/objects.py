"""`save` and `load`: checkpoints of training loops of one's own."""

from __future__ import annotations

import warnings
from collections.abc import Container, Iterable, Mapping, Sequence
from copy import deepcopy
from datetime import timedelta
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from dgc_topo.compression.resharding import is_shared_out, state_for
from dgc_topo.liveness import current
from dgc_topo.runtime.breaking import break_waits
from dgc_topo.training.averaging.base import mean_of
from dgc_topo.training.checkpoints.errors import CheckpointError
from dgc_topo.training.checkpoints.fitting import check_fits, check_names
from dgc_topo.training.checkpoints.forms import check_own, same_form
from dgc_topo.training.checkpoints.manifest import complete_numbers, newest_manifest
from dgc_topo.training.checkpoints.plain import checksum, plain
from dgc_topo.training.checkpoints.randoms import random_states, restore_random_states
from dgc_topo.training.checkpoints.sets import Sets
from dgc_topo.training.optimizer.facade import Facade
from dgc_topo.training.setting import check_loadable
from dgc_topo.training.waiting import Waits
from dgc_topo.workers.group import Worker

T = TypeVar("T")

#: In log lines, for scripts in which rank 0 alone comes here.
_WHERE = "dt.save or dt.load, which every rank calls"


def save(path: str | Path, **objects: Any) -> None:
    """Save objects and values as the newest checkpoint in a folder, whole or not at all.

    In a process group every rank calls it, and writes a file of its own; the checkpoint counts once
    all files are on disk.  The one before stays until then, and as long as it is the last but one.
    The random states of torch, numpy and Python are saved, too.

    Args:
        path: Folder of the checkpoints, on every machine that runs a rank.
        objects: By name: anything with ``state_dict`` and ``load_state_dict`` (models, optimizers,
            `DGC`, a hook's state, learning-rate schedules, samplers), a `torch.Generator`, or
            plain values: numbers, texts, tensors, and lists, tuples and dictionaries of them.

    Raises:
        ValueError: if something holds other values (no checkpoint runs code when it is loaded), or
            a model has a buffer made with ``expand``, which torch cannot load.
        OSError: on every rank, if one cannot write; earlier checkpoints are as they were.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(4, 2)
        >>> dgc = dt.DGC(model, num_workers=1, density=0.5, warm_up="none")
        >>> dt.save("run", model=model, dgc=dgc, step=100)
        >>> dt.load("run", model=model, dgc=dgc, step=0)
        {'step': 100}
    """
    folder = Path(path)
    with _Peers("saving a checkpoint") as peers:
        states = {name: _state_to_save(name, each) for name, each in objects.items()}
        content = {"objects": states, "randoms": plain("random states", random_states())}
        before = newest_manifest(folder)
        peers.sets(folder).write(
            {"ranks": {peers.rank: content}},
            step=0 if before is None else before.step + 1,
            world_size=peers.world_size,
            settings={name: type(each).__name__ for name, each in objects.items()},
        )


def load(path: str | Path, **objects: Any) -> dict[str, Any]:
    """Put the newest whole checkpoint of `save` into objects, and return the plain values.

    Everything is compared first: nothing changes if a name or a shape differs.  A checkpoint of as
    many ranks continues bit for bit, random states included.  With another number of ranks the
    residuals and velocities of compressors are shared out anew and their sums stay; models that a
    `DistributedOptimizer` mixes begin with their mean; what is equal on all former ranks is loaded
    on every rank.

    Args:
        path: Folder of the checkpoints.
        objects: Those that were saved, by the same names; plain values of any content.

    Returns:
        The plain values that were saved, by name.

    Raises:
        CheckpointError: a `ValueError`, if there is no whole checkpoint, or it does not fit.

    Example:
        >>> if dt.has_checkpoint("run"):
        ...     step = dt.load("run", model=model, dgc=dgc, step=0)["step"]
    """
    with _Peers("loading a checkpoint") as peers:
        return _load(Path(path), objects, peers)


def _load(folder: Path, objects: Mapping[str, Any], peers: _Peers) -> dict[str, Any]:
    """Do what `load` says."""
    loaded = peers.sets(folder).read(
        lambda manifest: check_names(folder, manifest, objects),
        lambda manifest: (
            [peers.rank] if manifest.world_size == peers.world_size else range(manifest.world_size)
        ),
        check_own,
    )
    if loaded is None:
        raise CheckpointError(f"{folder}: holds no checkpoint, expected one that dt.save has made")
    if peers.rank == 0:
        for why in loaded.refused:
            warnings.warn(f"checkpoint left out, the one before is used: {why}", stacklevel=3)
    former = {rank: each for content in loaded.contents for rank, each in content["ranks"].items()}
    ranks = [former[rank] for rank in sorted(former)]
    states: Mapping[str, Any] = ranks[0]["objects"]
    if loaded.manifest.world_size != peers.world_size:
        with same_form(folder):
            mixed = _mixed(objects.values())
            states = {
                name: _shared_out(
                    name, each, [rank["objects"][name] for rank in ranks], peers, mixed
                )
                for name, each in objects.items()
            }
    _put_all(folder, objects, states)
    if peers.rank in former:
        restore_random_states(former[peers.rank]["randoms"])
    return {name: states[name] for name, each in objects.items() if not _has_state(each)}


def has_checkpoint(path: str | Path) -> bool:
    """Return True if rank 0 sees a complete checkpoint in a folder; every rank calls it.

    Example:
        >>> dt.has_checkpoint("nowhere")
        False
    """
    own = bool(complete_numbers(Path(path)))
    with _Peers("looking for checkpoints") as peers:
        return peers.gather(bool, [own], "looking for checkpoints")[0]


class _Peers:
    """The ranks of the default process group, or this process alone.

    Args:
        doing: Phase that this process notes for as long as the block lasts.
    """

    def __init__(self, doing: str) -> None:
        self._doing = doing
        together = dist.is_available() and dist.is_initialized()
        self.rank, self.world_size = (
            (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
        )
        self._worker = _worker() if together else None
        self._waits = Waits(_WHERE, self.rank, look=_break_if_lost)

    def __enter__(self) -> Self:
        current().note(self._doing)
        return self

    def __exit__(self, *_: object) -> None:
        current().note("computing")

    def gather(self, kind: type[T], own: Sequence[T], what: str) -> list[T]:
        """See `World.gather`."""
        if self._worker is None:
            return list(own)
        current().note(f"{what} in {_WHERE}")
        with self._waits.one(None):
            found = self._worker.gather(list[kind], list(own), what)  # type: ignore[valid-type]
        current().note(self._doing)
        return [value for values in found for value in values]

    def sets(self, folder: Path) -> Sets:
        """Return the sets in a folder."""
        return Sets(folder, self.gather, [self.rank])


def _break_if_lost() -> None:
    """End a wait in the default group, which nobody else watches, once a rank is lost."""
    if current().loss is not None:
        break_waits()


def _worker() -> Worker:
    cuda = dist.get_backend() == "nccl"
    device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    return Worker(
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        device=device,
        timeout=timedelta(minutes=1),
        tell=lambda _: None,
        network="unknown",
        interface=None,
        time_scale=1.0,
    )


def _has_state(value: object) -> bool:
    is_stateful = hasattr(value, "state_dict") and hasattr(value, "load_state_dict")
    return is_stateful or isinstance(value, torch.Generator)


def _state_of(value: Any) -> Any:
    if isinstance(value, torch.Generator):
        return value.get_state()
    return value.state_dict() if _has_state(value) else value


def _state_to_save(name: str, value: Any) -> Any:
    """Return the state of an object as plain content.

    Raises:
        ValueError: if it holds other values, or could not be loaded.
    """
    state = _state_of(value)
    if isinstance(value, nn.Module):
        check_loadable(name, {key: each for key, each in state.items() if torch.is_tensor(each)})
    return plain(name, state)


def _mixed(objects: Iterable[Any]) -> set[int]:
    """Return which parameters are trained by optimizers that keep ranks together themselves."""
    facades = [each for each in objects if isinstance(each, Facade)]
    return {id(p) for each in facades for group in each.param_groups for p in group["params"]}


def _shared_out(
    name: str, value: Any, states: Sequence[Any], peers: _Peers, mixed: Container[int]
) -> Any:
    """Return this rank's state of an object, out of those of another number of ranks.

    Args:
        name: Of the object.
        value: The object.
        states: Those of all former ranks, in their order.
        peers: The ranks now.
        mixed: Parameters, by their identity, whose values may differ between ranks.
    """
    own = states[peers.rank % len(states)]
    if hasattr(value, "state_for"):
        return value.state_for(states, peers.rank, peers.world_size)
    if is_shared_out(own):
        return state_for(states, peers.rank, peers.world_size)
    compared = list(states)
    if isinstance(value, nn.Module):  # running statistics may differ
        names = dict(value.named_parameters(remove_duplicate=False))
        compared = [{key: state[key] for key in state if key in names} for state in states]
    differ = len({checksum(each) for each in compared}) > 1
    if differ and isinstance(value, nn.Module) and any(id(p) in mixed for p in value.parameters()):
        return {**own, **mean_of(compared)}
    if differ:
        raise CheckpointError(
            f"{name}: differs between the {len(states)} ranks of the checkpoint, so that "
            f"{peers.world_size} ranks cannot share it; expected as many ranks as before"
        )
    return own


def _put_all(folder: Path, objects: Mapping[str, Any], states: Mapping[str, Any]) -> None:
    """Load all states, or none; those of models first, as an optimizer may set parameters."""
    order = sorted(objects.items(), key=lambda item: not isinstance(item[1], nn.Module))
    stateful = {name: each for name, each in order if _has_state(each)}
    for name, each in stateful.items():
        try:
            check_fits(f"{folder}: {name}", each, states[name])
        except CheckpointError:
            raise
        except Exception as error:  # the state of something else, of whatever form
            raise _misfit(folder, name, each, error) from error
    # All of them first: what an optimizer keeps beside the parameters follows them.
    before = {name: deepcopy(_state_of(each)) for name, each in stateful.items()}
    touched: list[str] = []
    try:
        for name, each in stateful.items():
            touched.append(name)
            _put(each, states[name])
    except Exception as error:
        for other in touched:
            _put(stateful[other], before[other])
        raise _misfit(folder, name, stateful[name], error) from error


def _misfit(folder: Path, name: str, value: Any, error: Exception) -> CheckpointError:
    why = f"what was saved does not fit {type(value).__name__} ({type(error).__name__}: {error})"
    if isinstance(error, ValueError):  # it says so itself
        why = str(error)
    return CheckpointError(f"{folder}: {name}: {why}")


def _put(value: Any, state: Any) -> None:
    if isinstance(value, torch.Generator):
        value.set_state(state)
    else:
        value.load_state_dict(state)
