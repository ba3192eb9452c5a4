"""Records of steps: each is written once, and a lost file of them costs nothing else."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dgc_topo.training.checkpoints import step_records
from dgc_topo.training.checkpoints.file import read_file
from dgc_topo.training.checkpoints.step_records import StepRecords
from dgc_topo.training.rank import FIELDS, StepRecord
from tests.training.checkpoints.runs import changed, jobs_of, stopped, train

STEPS = 12


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A training of two epochs that saves after each step, and moves records by threes."""
    monkeypatch.setattr(step_records, "PART_STEPS", 3)
    (job,) = jobs_of(tmp_path, "ring", steps=STEPS // 2, densities=(0.1,), train={"epochs": 2})
    return changed(job, checkpoint_every=1)


def counts(record):
    """What a record counts over all steps; times differ."""
    return record.num_steps, record.compressed_bytes, record.wire_bytes_per_step, record.sparse


def values(quality):
    """Values of the evaluations; mean losses are of the steps that have records."""
    return [point.value for point in quality.points]


def test_every_record_is_written_once(job, tmp_path):
    """A set holds as few records after many steps as at the beginning; none is lost by stops."""
    folder = tmp_path / "kept"
    whole = train(job)
    stopped(job, folder, 5)
    stopped(job, folder, 11, resume=True)
    (place,) = (folder / "checkpoints").iterdir()
    content = read_file(max(place.glob("set-*")) / "process-0.pt")
    for state in content["ranks"].values():
        saved = state["records"]
        assert len(saved["rows"]) == 2
        assert [part["steps"] for part in saved["parts"]] == [3, 3, 3]
    assert len(list((place / "records").iterdir())) == 3 * len(content["ranks"])
    again = train(job, folder, resume=True)
    assert again.resumed_at == (5, 11)
    assert counts(again) == counts(whole)
    assert again.quality == whole.quality
    assert again.parameters == whole.parameters


@pytest.mark.parametrize("broken", [0, 1])
def test_a_lost_file_of_records_costs_the_records_before_it(job, tmp_path, broken):
    folder = tmp_path / "kept"
    whole = train(job)
    stopped(job, folder, 9)
    (place,) = (folder / "checkpoints").iterdir()
    saved = read_file(max(place.glob("set-*")) / "process-0.pt")["ranks"][1]["records"]
    (place / "records" / saved["parts"][broken]["name"]).write_bytes(b"")
    stopped(job, folder, 10, resume=True)
    again = train(job, folder, resume=True)
    assert again.num_steps == STEPS - 3 * (broken + 1)
    assert again.parameters == whole.parameters
    assert values(again.quality) == values(whole.quality)


def test_records_that_cannot_move_stay_in_the_set(job, tmp_path):
    """A full disk, or a file where the folder should be, is an error of the set, if of any."""
    folder = tmp_path / "kept"
    stopped(job, folder, 2)
    (place,) = (folder / "checkpoints").iterdir()
    (place / "records").write_text("in the way")
    again = train(job, folder, resume=True)
    assert again.num_steps == STEPS
    assert counts(again) == counts(train(job))


def test_the_interface_is_counted_by_one_process(tmp_path, monkeypatch):
    """What an interface had sent is not compared across processes, however often one goes on."""
    monkeypatch.setattr(step_records, "PART_STEPS", 3)
    rank: Any = SimpleNamespace(rank=0, records=[])
    content: dict[str, Any] = {}
    for begin in (0, 5, 10):
        records = StepRecords(tmp_path)
        if content:
            assert records.restore(content, rank) == ""
        rank.records += [_record(number) for number in range(begin, begin + 5)]
        content = records.state_of(rank)
    StepRecords(tmp_path).restore(content, rank)
    unknown = [n for n, each in enumerate(rank.records) if each.interface_bytes != n]
    assert unknown == [4, 9, 14]


def _record(number):
    names = [name for name in FIELDS if name != "interface_bytes"]
    values = dict(zip(names, torch.arange(float(len(names))).tolist(), strict=True))
    return StepRecord(**values, interface_bytes=number)
