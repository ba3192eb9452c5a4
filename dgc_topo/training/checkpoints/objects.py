"""`save` and `load`: checkpoints of training loops of one's own."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dgc_topo.training.checkpoints.errors import CheckpointError
from dgc_topo.training.checkpoints.fitting import check_fits, check_names
from dgc_topo.training.checkpoints.forms import check_own, same_form
from dgc_topo.training.checkpoints.manifest import complete_numbers, newest_manifest
from dgc_topo.training.checkpoints.peers import Peers
from dgc_topo.training.checkpoints.plain import plain
from dgc_topo.training.checkpoints.randoms import random_states, restore_random_states
from dgc_topo.training.checkpoints.sets import Sets
from dgc_topo.training.checkpoints.shares import mixed_parameters, share_of
from dgc_topo.training.checkpoints.together import on_all
from dgc_topo.training.setting import check_loadable
from dgc_topo.workers.seat import Seat


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
        OSError: on every rank, if one cannot write, or another run saves in the same folder;
            earlier checkpoints are as they were.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(4, 2)
        >>> dgc = dt.DGC(model, num_workers=1, density=0.5, warm_up="none")
        >>> dt.save("run", model=model, dgc=dgc, step=100)
        >>> dt.load("run", model=model, dgc=dgc, step=0)
        {'step': 100}
    """
    folder = Path(path)
    with Peers("saving a checkpoint") as peers:
        with on_all(peers.gather, peers.rank, "saving"):
            states = {name: _state_to_save(name, each) for name, each in objects.items()}
            content = {"objects": states, "randoms": plain("random states", random_states())}
            before = newest_manifest(folder)
        sets = Sets(folder, peers.gather, [peers.rank])
        sets.check_own()
        sets.write(
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
    on every rank.  Random states, and generators that each rank had of its own, go on where a rank
    was there before; on a new rank they stay as the script has made them.

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
    with Peers("loading a checkpoint") as peers:
        return _load(Path(path), objects, peers)


def _load(folder: Path, objects: Mapping[str, Any], peers: Peers) -> dict[str, Any]:
    """Do what `load` says."""
    loaded = Sets(folder, peers.gather, [peers.rank]).read(
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
    with on_all(peers.gather, peers.rank, "loading"):
        if loaded.manifest.world_size != peers.world_size:
            with same_form(folder):
                seat = Seat(peers.rank, peers.world_size)
                mixed = mixed_parameters(objects.values())
                states = {
                    name: share_of(
                        name, each, [rank["objects"][name] for rank in ranks], seat, mixed
                    )
                    for name, each in objects.items()
                }
        stateful = _fitting(folder, objects, states)
    _put_all(folder, stateful, states, peers)
    if peers.rank in former:
        restore_random_states(former[peers.rank]["randoms"])
    return {name: states[name] for name, each in objects.items() if not _has_state(each)}


def has_checkpoint(path: str | Path) -> bool:
    """Return True if rank 0 sees a complete checkpoint in a folder; every rank calls it.

    Example:
        >>> dt.has_checkpoint("nowhere")
        False
    """
    with Peers("looking for checkpoints") as peers:
        with on_all(peers.gather, peers.rank, "looking for checkpoints"):
            own = bool(complete_numbers(Path(path)))
        return peers.gather(bool, [own], "looking for checkpoints")[0]


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


def _fitting(folder: Path, objects: Mapping[str, Any], states: Mapping[str, Any]) -> dict[str, Any]:
    """Return the objects that have a state, once all states are found to fit as far as can be told.

    Those of models come first, as an optimizer may set parameters.
    """
    order = sorted(objects.items(), key=lambda item: not isinstance(item[1], nn.Module))
    stateful = {name: each for name, each in order if _has_state(each)}
    for name, each in stateful.items():
        try:
            check_fits(f"{folder}: {name}", each, states[name])
        except CheckpointError:
            raise
        except Exception as error:  # the state of something else, of whatever form
            raise _misfit(folder, name, each, error) from error
    return stateful


def _put_all(
    folder: Path, stateful: Mapping[str, Any], states: Mapping[str, Any], peers: Peers
) -> None:
    """Load all states on all ranks, or none on any."""
    # All of them first: what an optimizer keeps beside the parameters follows them.
    before = {name: deepcopy(_state_of(each)) for name, each in stateful.items()}
    touched: list[str] = []
    try:
        with on_all(peers.gather, peers.rank, "loading"):
            for name, each in stateful.items():
                touched.append(name)
                try:
                    _put(each, states[name])
                except Exception as error:  # whatever an object's own way of loading raises
                    raise _misfit(folder, name, each, error) from error
    except Exception:
        for other in touched:
            _put(stateful[other], before[other])
        raise


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
