"""Files of checkpoints: whole or not at all, loadable by torch alone, and broken ones are named."""

import json
import resource
import shutil
import signal
from contextlib import contextmanager, suppress

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dgc_topo.files import WriteError
from dgc_topo.training.checkpoints.errors import CheckpointError, UnsavedError
from dgc_topo.training.checkpoints.file import read_file, write_file
from dgc_topo.training.checkpoints.keeping import Keeping, check_checkpoints
from dgc_topo.training.checkpoints.manifest import MANIFEST
from dgc_topo.training.checkpoints.plain import checksum, plain
from tests.training.checkpoints.runs import changed, jobs_of, stopped, train


@contextmanager
def a_limit_of(num_bytes: int):
    """Refuse to write files beyond so many bytes, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


CONTENT = {
    "numbers": [1, 2.5, None, True, "text"],
    "tensors": (torch.arange(5000.0), torch.tensor([], dtype=torch.int32), torch.ones(2, 3).bool()),
    3: torch.tensor(1.5, dtype=torch.bfloat16),
}


def test_torch_alone_can_read_a_file(tmp_path):
    path = tmp_path / "file.pt"
    written = write_file(path, CONTENT)
    assert written.num_bytes == path.stat().st_size
    found = torch.load(path, weights_only=True)["content"]
    assert checksum(found) == checksum(CONTENT) == written.checksum
    assert checksum(read_file(path, written.checksum)) == written.checksum


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_never_loaded(place, bit, tmp_path_factory):
    """It is noticed, or lies where nothing is read: padding, names of zip entries."""
    path = tmp_path_factory.mktemp("flipped") / "file.pt"
    write_file(path, CONTENT)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(content)
    with suppress(CheckpointError):
        assert checksum(read_file(path)) == checksum(CONTENT)


@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_that_was_cut_off_is_named(share, tmp_path_factory):
    path = tmp_path_factory.mktemp("cut") / "file.pt"
    write_file(path, CONTENT)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=str(path)):
        read_file(path)


def test_files_of_others_are_told_apart(tmp_path):
    path = tmp_path / "file.pt"
    with pytest.raises(CheckpointError, match=r"file.pt: cannot be read: No such file"):
        read_file(path)
    torch.save({"weight": torch.ones(2)}, path)
    with pytest.raises(CheckpointError, match="is no checkpoint of dgc-topo"):
        read_file(path)
    torch.save({"format": "dgc-topo checkpoint", "version": 99}, path)
    with pytest.raises(CheckpointError, match=r"version 99 .* update dgc-topo"):
        read_file(path)
    torch.save({"format": "dgc-topo checkpoint", "code": Holder()}, path)
    with pytest.raises(CheckpointError, match="is broken"):  # nothing is run
        read_file(path)
    write_file(path, [1])
    with pytest.raises(CheckpointError, match="belongs to another checkpoint"):
        read_file(path, checksum([2]))


class Holder:
    """Something that only unpickling could make."""


@pytest.mark.parametrize("value", [object(), {1, 2}, lambda: 0, {(1, 2): 3}, Holder()])
def test_what_would_need_code_is_refused_with_its_place(value):
    with pytest.raises(ValueError, match=r"model\['a'\]\[1\].* expected"):
        plain("model", {"a": [0, value]})


def test_a_full_disk_loses_nothing_and_says_how_much_it_takes(tmp_path):
    path = tmp_path / "file.pt"
    write_file(path, CONTENT)
    before = path.read_bytes()
    with a_limit_of(9000), pytest.raises(WriteError) as caught:
        write_file(path, CONTENT)
    assert str(caught.value).startswith(f"{path}: cannot be written: File too large: ")
    assert f"{len(before):,} bytes are needed" in str(caught.value)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_training_on_a_full_disk_keeps_its_last_checkpoint(tmp_path):
    """It ends with an error; with room again it goes on, to the same bits."""
    (job,) = jobs_of(tmp_path, "ring", densities=(0.02,), world_size=2, batch_size=4)
    job = changed(job, checkpoint_every=2)
    whole = train(job)
    stopped(job, tmp_path, 3)
    sets = sorted(path.parent.name for path in tmp_path.rglob(MANIFEST))
    with a_limit_of(50_000), pytest.raises(UnsavedError) as caught:
        train(job, tmp_path, resume=True)
    assert "the checkpoint after step 4 is not saved" in str(caught.value)
    assert "rank 0: " in str(caught.value)
    assert sorted(path.parent.name for path in tmp_path.rglob(MANIFEST)) == sets
    assert not list(tmp_path.rglob(".dgc-topo-*"))
    again = train(job, tmp_path, resume=True)
    assert again.parameters == whole.parameters
    assert again.resumed_at == (2,)


def test_a_broken_checkpoint_is_named_and_the_one_before_is_used(tmp_path):
    (job,) = jobs_of(tmp_path, "ring", densities=(0.02,), world_size=2, batch_size=4)
    job = changed(job, checkpoint_every=2)
    whole = train(job)
    stopped(job, tmp_path, 5)
    (newest, older) = sorted(tmp_path.glob("checkpoints/*/set-*"), reverse=True)
    saved = tmp_path / "saved"
    shutil.copytree(tmp_path / "checkpoints", saved)
    file = newest / "process-0.pt"
    file.write_bytes(file.read_bytes()[:-100])
    again = train(job, tmp_path, resume=True)
    assert (again.parameters, again.resumed_at) == (whole.parameters, (2,))
    # Without its manifest a set does not count; with all of them broken nothing is guessed.
    shutil.rmtree(tmp_path / "checkpoints")
    shutil.copytree(saved, tmp_path / "checkpoints")
    (newest / MANIFEST).unlink()
    assert train(job, tmp_path, resume=True).resumed_at == (2,)
    shutil.rmtree(tmp_path / "checkpoints")
    shutil.copytree(saved, tmp_path / "checkpoints")
    for each in (newest, older):
        (each / "process-0.pt").unlink()
    with pytest.raises(CheckpointError, match=r"set-000002.*set-000001"):
        train(job, tmp_path, resume=True)


@pytest.mark.parametrize(
    "change",
    [{"files": []}, {"world_size": 3}, {"world_size": 1}, {"version": 2}, {"step": -1}],
    ids=str,
)
def test_a_manifest_that_names_no_whole_set_is_named_as_broken(tmp_path, change):
    (job,) = jobs_of(tmp_path, "ring", densities=(0.02,), world_size=2, batch_size=4)
    stopped(changed(job, checkpoint_every=2), tmp_path, 3)
    (path,) = tmp_path.rglob(MANIFEST)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=r"manifest\.json: is broken"):
        train(job, tmp_path, resume=True)
    # Nor does a launcher take it for no checkpoint, and begin anew.
    with pytest.raises(CheckpointError, match=r"manifest\.json: is broken"):
        check_checkpoints(Keeping(folder=tmp_path), job)


def without(folder, *keys: str) -> None:
    """Remove a key from every file of the checkpoints in a folder; the checksums fit again."""
    for path in folder.rglob(MANIFEST):
        manifest = json.loads(path.read_text())
        for note in manifest["files"]:
            content = read_file(path.parent / note["name"])
            parts = [content]
            for key in keys[:-1]:  # "*" is every rank
                parts = [inner for p in parts for inner in (p.values() if key == "*" else [p[key]])]
            for part in parts:
                del part[keys[-1]]
            note["checksum"] = write_file(path.parent / note["name"], content).checksum
        path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (("progress",), "the content: has no progress"),
        (("randoms", "numpy"), "randoms: has no numpy"),
        (("ranks", "*", "compressors"), r"ranks\.0: has no compressors"),
        (("ranks", "*", "records", "rows"), r"another form \(KeyError: 'rows'\)"),
        (("parameters", "hidden.bias"), r"parameters \['hidden.bias'\]: on one side only"),
    ],
    ids=str,
)
def test_a_part_that_is_missing_is_named_whatever_the_checksum_says(tmp_path, keys, says):
    (job,) = jobs_of(tmp_path, "ring", densities=(0.02,), world_size=2, batch_size=4)
    stopped(changed(job, checkpoint_every=2), tmp_path, 3)
    without(tmp_path, *keys)
    with pytest.raises(CheckpointError, match=says):
        train(job, tmp_path, resume=True)


def test_a_set_found_broken_does_not_push_out_a_sound_one(tmp_path):
    """The two that stay are two that can be read."""
    (job,) = jobs_of(tmp_path, "ring", densities=(0.02,), world_size=2, batch_size=4)
    job = changed(job, checkpoint_every=2)
    stopped(job, tmp_path, 5)
    older, newest = sorted(tmp_path.glob("checkpoints/*/set-*"))
    file = newest / "process-0.pt"
    file.write_bytes(file.read_bytes()[:-100])
    stopped(job, tmp_path, 5, resume=True)
    found = sorted(path.name for path in tmp_path.glob("checkpoints/*/set-*"))
    assert found == [older.name, "set-000003"]


def test_other_settings_are_refused_by_name(tmp_path):
    (job,) = jobs_of(tmp_path, "ring", densities=(0.02,), world_size=2, batch_size=4)
    stopped(changed(job, checkpoint_every=2), tmp_path, 3)
    other = changed(job, learning_rate=0.2, momentum=0.5)
    with pytest.raises(CheckpointError, match=r"learning_rate was 0.1, now 0.2; .*momentum"):
        train(other, tmp_path, resume=True)
    with pytest.raises(CheckpointError, match=r"epochs was 2, now 9 .all learning rates and dens"):
        train(changed(job, epochs=9), tmp_path, resume=True)


def test_the_last_and_the_best_model_are_files_that_torch_loads(tmp_path):
    (job,) = jobs_of(tmp_path, "ring", densities=(1.0,), world_size=2, batch_size=4, epochs=4)
    record = train(changed(job, learning_rate=0.5), tmp_path)
    assert record.models is not None
    assert record.quality is not None
    last = torch.load(tmp_path / record.models.last, weights_only=True)
    best = torch.load(tmp_path / record.models.best, weights_only=True)
    assert (
        last.keys()
        == best.keys()
        == {"hidden.weight", "hidden.bias", "classifier.weight", "classifier.bias"}
    )
    values = [point.value for point in record.quality.points]
    is_last_best = values.index(max(values)) == len(values) - 1
    assert all(torch.equal(last[name], best[name]) for name in last) == is_last_best
