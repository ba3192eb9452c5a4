"""Records of steps in checkpoints: each is written once, however many checkpoints follow.

The newest records are in every set.  Once there are many, they move to a file beside the sets,
which all later sets name: a checkpoint takes as long after a million steps as at the beginning.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from dgc_topo.training.checkpoints.errors import CheckpointError
from dgc_topo.training.checkpoints.file import read_file, write_file
from dgc_topo.training.rank import FIELDS, StepRecord, TrainingRank

PART_STEPS = 2_000  #: steps whose records move to a file of their own
_FOLDER = "records"


class StepRecordFile(BaseModel):
    """Note about a file with the records of some steps; no other file ever gets its name.

    Attributes:
        name: Of the file.
        steps: Number of steps.
        checksum: See `Written`.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    steps: int
    checksum: str


class StepRecords:
    """Records of the steps of ranks in this process, in files beside a run's sets.

    Args:
        folder: Folder of the sets.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / _FOLDER
        self._parts: dict[int, list[StepRecordFile]] = {}

    def state_of(self, rank: TrainingRank) -> dict[str, Any]:
        """Return a rank's records as plain content, after moving them to a file if they are many.

        If that file cannot be written, they stay in the content.
        """
        parts = self._parts.setdefault(rank.rank, [])
        written = sum(part.steps for part in parts)
        # The last record stays: what its interface counts is forgotten in another process.
        new = rank.records[written:-1]
        if len(new) >= PART_STEPS:
            with suppress(OSError):
                parts.append(self._write(rank.rank, new))
                written += len(new)
        return {
            "parts": [part.model_dump() for part in parts],
            "rows": _to_tensor(rank.records[written:]),
        }

    def restore(self, state: Mapping[str, Any], rank: TrainingRank) -> str:
        """Put a rank's records back; those up to a file that is broken are left out.

        Returns:
            Why some are left out; "" if none are.
        """
        parts, rows, why = [StepRecordFile.model_validate(each) for each in state["parts"]], [], ""
        for part in parts:
            try:
                rows.append(read_file(self._folder / part.name, part.checksum))
            except CheckpointError as error:
                rows, why = [], f"records of earlier steps are left out: {error}"
        rank.records[:] = _to_records(torch.cat([*rows, state["rows"]]))
        self._parts[rank.rank] = [] if why else parts
        return why

    def shorten(self, ranks: Sequence[TrainingRank], length: int) -> None:
        """Keep the last *length* records of each rank, as of one that has lost the others."""
        for rank in ranks:
            if len(rank.records) > length:
                del rank.records[:-length]
                self._parts[rank.rank] = []  # their files hold more

    def _write(self, rank: int, records: Sequence[StepRecord]) -> StepRecordFile:
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"rank-{rank}-{secrets.token_hex(6)}.pt"
        written = write_file(self._folder / name, _to_tensor(records))
        return StepRecordFile(name=name, steps=len(records), checksum=written.checksum)


def _to_tensor(records: Sequence[StepRecord]) -> Tensor:
    """Return the records, one row each; NaN stands for None."""
    rows = [
        [math.nan if (value := getattr(record, name)) is None else value for name in FIELDS]
        for record in records
    ]
    return torch.tensor(rows, dtype=torch.float64).reshape(len(rows), len(FIELDS))


def _to_records(rows: Tensor) -> list[StepRecord]:
    """Return the records in *rows*; what the last one's interface counts ends with its process."""
    records = []
    for number, row in enumerate(rows.tolist(), start=1):
        values = dict(zip(FIELDS, row, strict=True))
        if math.isnan(values["messages_sent"]):
            values["messages_sent"] = None
        if number == len(rows):
            values["interface_bytes"] = math.nan
        records.append(StepRecord(**values))
    return records
