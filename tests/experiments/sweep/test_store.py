"""A sweep's folder: appended while it runs, gone on with after any interruption, never mixed up."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dgc_topo as dt
from dgc_topo.experiments.sweep.rows import VERSION
from dgc_topo.experiments.sweep.running import SilentSweep
from dgc_topo.records.records import ResultsError, lock

AXES: dict[str, Any] = {
    "topology": ["ring", "gossip"],
    "world_size": [2, 3],
    "network": "1gbe",
    "workload": "resnet110-cifar",
    "density": [1, 0.01],
    "bandwidth": ["100Mbit/s", "1Gbit/s"],
}
NUM_ROWS = 16


class Listening(SilentSweep):
    """Observer that remembers what it was told."""

    def __init__(self):
        self.begun, self.count, self.aside = (0, 0), 0, Path()

    def moved(self, folder, aside):
        self.aside = aside

    def begin(self, total, done):
        self.begun = (total, done)

    def advance(self, count):
        self.count += count


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "sweep"
    dt.sweep(**AXES, output=folder)
    return (folder / "sweep.jsonl").read_bytes()


def test_the_file_has_a_line_per_row_with_a_version_and_the_key_of_its_job(undisturbed):
    records = [json.loads(line) for line in undisturbed.splitlines()]
    assert len(records) == NUM_ROWS
    assert {record["version"] for record in records} == {VERSION}
    assert len({record["job"] for record in records}) == NUM_ROWS


@settings(max_examples=60)
@given(data=st.data())
def test_a_sweep_killed_anywhere_goes_on_to_the_same_file(undisturbed, data):
    """Killed at any byte, with any of the records that workers had sent, in any order."""
    lines = undisturbed.splitlines(keepends=True)
    content = b"".join(data.draw(st.permutations(lines)))
    content = content[: data.draw(st.integers(0, len(content)))]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "sweep.jsonl").write_bytes(content)
        listening = Listening()
        dt.sweep(**AXES, output=folder, observer=listening)
        assert (Path(folder) / "sweep.jsonl").read_bytes() == undisturbed
        whole = content.count(b"\n") + (content.rpartition(b"\n")[2] + b"\n" in lines)
        assert listening.begun == (NUM_ROWS, whole)
        assert listening.count == NUM_ROWS - whole


def test_a_record_that_is_there_twice_is_kept_once(undisturbed, tmp_path):
    (tmp_path / "sweep.jsonl").write_bytes(undisturbed + undisturbed)
    dt.sweep(**AXES, output=tmp_path)
    assert (tmp_path / "sweep.jsonl").read_bytes() == undisturbed


def test_a_finished_sweep_predicts_nothing_again(tmp_path):
    first = dt.sweep(**AXES, output=tmp_path / "sweep")
    listening = Listening()
    again = dt.sweep(**AXES, output=tmp_path / "sweep", observer=listening)
    assert listening.begun == (NUM_ROWS, NUM_ROWS)
    assert again.rows == first.rows == dt.Sweep.load(tmp_path / "sweep").rows


def test_an_unfinished_sweep_can_be_read(undisturbed, tmp_path):
    torn = undisturbed[: len(undisturbed) // 2 + 10]
    (tmp_path / "sweep.jsonl").write_bytes(torn)
    with pytest.warns(UserWarning, match="cut off"):
        found = dt.Sweep.load(tmp_path)
    assert len(found.to_frame()) == torn.count(b"\n")


def test_more_values_go_on_with_what_is_there(tmp_path):
    folder = tmp_path / "sweep"
    dt.sweep(**AXES, output=folder)
    listening = Listening()
    more = dt.sweep(**AXES | {"world_size": [2, 3, 4]}, output=folder, observer=listening)
    assert listening.begun == (NUM_ROWS * 3 // 2, NUM_ROWS)
    assert listening.aside == Path()
    fresh = dt.sweep(**AXES | {"world_size": [2, 3, 4]}, output=tmp_path / "fresh")
    assert more.rows == fresh.rows


@pytest.mark.parametrize(
    "other",
    [
        {"density": 0.02},
        {"workload": {"model": "resnet110-cifar", "compute_s": 1.0}},
        {"codec": "1ms", "topology": "ring", "density": 0.01},
        {"seed": 1, "jitter": 0.1},
        {"workload": None, "num_bytes": "1MB"},
        {"num_steps": 3},
        {"index_encoding": "int32", "topology": "ring", "density": 0.01},
    ],
    ids=str,
)
def test_other_settings_leave_earlier_records_alone(undisturbed, tmp_path, other):
    folder = tmp_path / "sweep"
    dt.sweep(**AXES, output=folder)
    listening = Listening()
    axes = AXES | other
    if axes["density"] == 0.02:
        axes["topology"] = "ring"
    found = dt.sweep(**axes, output=folder, observer=listening)
    assert listening.begun == (len(found), 0)
    assert (listening.aside / "sweep.jsonl").read_bytes() == undisturbed
    assert dt.Sweep.load(folder).rows == found.rows


def test_fewer_values_begin_with_the_records_that_both_share(tmp_path):
    folder = tmp_path / "sweep"
    dt.sweep(**AXES, output=folder)
    listening = Listening()
    found = dt.sweep(**AXES | {"world_size": 2}, output=folder, observer=listening)
    assert listening.begun == (NUM_ROWS // 2, NUM_ROWS // 2)
    assert len(found) == NUM_ROWS // 2
    assert len(dt.Sweep.load(listening.aside)) == NUM_ROWS


def test_an_edited_topology_is_another_one(tmp_path):
    file, folder = tmp_path / "mine.py", tmp_path / "sweep"
    text = (
        "from dgc_topo import Schedule, load_topology\n"
        "def schedule(world_size: int) -> Schedule:\n"
        "    return load_topology('{}').schedule(world_size)\n"
    )
    file.write_text(text.format("ring"))
    ring = dt.sweep(str(file), 4, "1gbe", "resnet50", output=folder)
    file.write_text(text.format("tree"))
    tree = dt.sweep(str(file), 4, "1gbe", "resnet50", output=folder)
    assert tree.to_frame().step_time_s[0] > ring.to_frame().step_time_s[0]


def test_an_edited_network_file_is_another_one(tmp_path):
    file, folder = tmp_path / "net.toml", tmp_path / "sweep"
    file.write_text('kind = "star"\nbase = "1gbe"\n')
    slow = dt.sweep("ring", 4, str(file), "resnet50", output=folder)
    file.write_text('kind = "star"\nbase = "10gbe"\n')
    fast = dt.sweep("ring", 4, str(file), "resnet50", output=folder)
    assert fast.to_frame().step_time_s[0] < slow.to_frame().step_time_s[0]


def test_foreign_folders_and_later_records_are_refused(undisturbed, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ResultsError, match=r"thesis.txt"):
        dt.sweep(**AXES, output=tmp_path)
    later = tmp_path / "later"
    later.mkdir()
    text = undisturbed.replace(b'"version":1', b'"version":2')
    (later / "sweep.jsonl").write_bytes(text)
    with pytest.raises(ResultsError, match="records of version 2"):
        dt.sweep(**AXES, output=later)
    with pytest.raises(ResultsError, match="records of version 2"):
        dt.Sweep.load(later)
    assert (later / "sweep.jsonl").read_bytes() == text
    with pytest.raises(ResultsError, match=r"no sweep.jsonl in there"):
        dt.Sweep.load(tmp_path)


def test_earlier_results_come_back_if_nothing_can_be_predicted(tmp_path, monkeypatch):
    folder = tmp_path / "sweep"
    dt.sweep(**AXES, output=folder)
    before = (folder / "sweep.jsonl").read_bytes()

    def fail(*_):
        raise RuntimeError("power failure")

    monkeypatch.setattr("dgc_topo.experiments.sweep.prediction.Predictor.row", fail)
    with pytest.raises(RuntimeError, match="power failure"):
        dt.sweep("tree", 4, "1gbe", "resnet50", output=folder)
    assert (folder / "sweep.jsonl").read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["sweep"]


def test_networks_made_in_python_are_predicted_but_have_no_records(tmp_path):
    cluster = dt.load_cluster("1gbe", 4)
    own = dt.sweep("ring", 4, cluster, "resnet50").to_frame()
    named = dt.sweep("ring", 4, "1gbe", "resnet50").to_frame()
    assert own.step_time_s.equals(named.step_time_s)
    with pytest.raises(ValueError, match="network: 1gbe was made in Python"):
        dt.sweep("ring", 4, cluster, "resnet50", output=tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_two_sweeps_do_not_write_into_one_folder(undisturbed, tmp_path):
    file = tmp_path / "sweep.jsonl"
    file.write_bytes(undisturbed[:1000])
    writing = lock(file)
    try:
        with pytest.raises(ResultsError, match="another run is writing there"):
            dt.sweep(**AXES, output=tmp_path)
    finally:
        os.close(writing)
    assert file.read_bytes() == undisturbed[:1000]
