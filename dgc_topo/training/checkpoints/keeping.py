"""Places of a run's files in a results folder, and the settings that its checkpoints must share."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from dgc_topo.records.room import CHECKPOINTS, MODELS
from dgc_topo.training.checkpoints.errors import CheckpointError
from dgc_topo.training.checkpoints.manifest import (
    Manifest,
    complete_numbers,
    newest_manifest,
    read_manifest,
)
from dgc_topo.training.job import Job

#: Settings that may be others when a run goes on; *world_size* moves the residuals.
_FREE = frozenset(
    {
        "scenario",
        "train.world_size",
        "train.timeout_s",
        "train.device",
        "train.backend",
        "train.data_path",
        "train.folder",
        "train.checkpoint_every",
        "train.log",
        "topology.folder",
        "compression.densities",
    }
)
_LONGEST = 80  # characters of a name, without its fingerprint


class Keeping(BaseModel):
    """Folder in which a launch keeps the state of its runs, and what it does with what is there.

    Attributes:
        folder: The results folder, absolute; each machine may have its own.
        resume: True to go on with the newest complete checkpoint of each run, if there is one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: Path
    resume: bool = False

    def checkpoints_of(self, job: Job) -> Path:
        """Return the folder of a run's sets."""
        return self.folder / CHECKPOINTS / name_of(job)

    def model_file(self, job: Job, which: str) -> Path:
        """Return the file of a run's *which* (last, best) model."""
        return self.folder / MODELS / f"{name_of(job)}-{which}.pt"


def name_of(job: Job) -> str:
    """Return the name of a run's files, the same for every number of workers.

    Only the runs of a ladder differ in that number, and have it in their names.
    """
    words = re.sub(r"[^\w.%-]+", "-", job.label).strip("-.")[:_LONGEST]
    return f"{words}-{hashlib.sha256(job.label.encode()).hexdigest()[:6]}"


def settings_of(job: Job) -> dict[str, Any]:
    """Return the settings in a manifest."""
    settings: dict[str, Any] = job.model_dump(mode="json")
    return settings


def check_settings(job: Job, manifest: Manifest, where: Path) -> None:
    """Refuse the checkpoint of a training with other settings.

    Raises:
        CheckpointError: naming each setting that differs.
    """
    saved, now = dict(_flat(manifest.settings)), dict(_flat(settings_of(job)))
    differing = [
        f"{key} was {saved.get(key, 'not there')!r}, now {now.get(key, 'not there')!r}"
        for key in dict.fromkeys([*saved, *now])
        if saved.get(key) != now.get(key) and key not in _FREE
    ]
    if differing:
        longer = any(text.startswith("train.epochs ") for text in differing)
        why = " (all learning rates and densities count on the number of epochs)" if longer else ""
        raise CheckpointError(
            f"{where}: the checkpoint is of a training with other settings: {'; '.join(differing)}"
            f"{why}"
        )


def forget(keeping: Keeping, job: Job) -> None:
    """Remove the checkpoints of a run whose record is safe."""
    folder = keeping.checkpoints_of(job)
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        folder.parent.rmdir()  # unless other runs have theirs in there


def check_checkpoints(keeping: Keeping, job: Job) -> Manifest | None:
    """Return the newest checkpoint's manifest as this machine sees it, None if there is none.

    Raises:
        CheckpointError: if its settings are not those of the job, or there are checkpoints, but no
            manifest can be read.
    """
    where = keeping.checkpoints_of(job)
    manifest = newest_manifest(where)
    if manifest is not None:
        check_settings(job, manifest, where)
    else:
        for number in complete_numbers(where):
            read_manifest(where, number)  # raises, and says why
    return manifest


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
