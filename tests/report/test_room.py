"""Earlier results: what counts as such, what becomes of them, and what is left if a run fails."""

import os

import pytest

from dgc_topo.records.folder import ResultsFolder
from dgc_topo.records.records import ResultsError, load_measurements
from dgc_topo.records.room import check_room, make_room
from dgc_topo.report.report import write_report
from tests.report.synthetic import measurements

TEXT = 'name = "quickstart"\n'


def make(path, **about):
    return ResultsFolder.create(path, TEXT, "quickstart", **about)


def finished(path, **about):
    folder = make(path, **about)
    folder.append(measurements()[0])
    folder.close()
    folder.report_path.write_text("as it was")
    return folder


def content(folder):
    """Return all that is below *folder*, with its bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("foreign", ["notes.txt", ".git", "src", "results", "scenario.toml.bak"])
def test_a_folder_with_anything_else_in_it_is_no_earlier_result(tmp_path, foreign):
    place = tmp_path / "quickstart"
    finished(place)
    (place / foreign).mkdir() if "." not in foreign[1:] else (place / foreign).touch()
    before = content(tmp_path)
    with pytest.raises(ResultsError, match=f"quickstart: holds '{foreign}', not dgc-topo results"):
        make(place)
    with pytest.raises(ResultsError, match=f"holds '{foreign}'"):
        ResultsFolder.resume(place, TEXT, "quickstart", [])
    assert content(tmp_path) == before


def test_a_folder_of_scenarios_is_no_earlier_result(tmp_path):
    for name in ("scenario.toml", "report.html", "network.toml"):
        (tmp_path / name).touch()
    with pytest.raises(ResultsError, match=r"holds 'network\.toml' and 2 more, not dgc-topo"):
        make(tmp_path)


def test_where_one_stands_lives_or_keeps_the_scenario_is_never_renamed(tmp_path, monkeypatch):
    here, home, kept = (tmp_path / name for name in ("here", "home", "kept"))
    for place in (here, home, kept):
        finished(place)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    before = content(tmp_path)
    refused = {
        here: "the current folder",
        home: "your home",
        kept: "the folder of the scenario itself",
    }
    for place, what in refused.items():
        with pytest.raises(ResultsError, match=f"{place}: {what}, which is never renamed"):
            make(place, scenario=kept / "scenario.toml")
    with pytest.raises(ResultsError, match=r"^\.: the current folder"):
        check_room(here.relative_to(here))
    assert content(tmp_path) == before


def test_what_is_renamed_is_told_and_a_link_stays(tmp_path):
    real, link = tmp_path / "disk" / "big", tmp_path / "quickstart"
    link.symlink_to(real)  # to nothing, so far
    first = finished(link)
    assert first.aside is None
    before = content(real)
    second = make(link)
    assert link.is_symlink()
    assert link.resolve() == real
    assert second.aside is not None
    assert second.aside.parent == real.parent
    assert content(second.aside) == before


def test_a_run_that_fails_before_its_first_record_leaves_everything_as_it_was(tmp_path):
    place = tmp_path / "quickstart"
    finished(place)
    before, told = content(tmp_path), []
    folder = make(place)
    moved = folder.aside
    with (
        pytest.raises(KeyboardInterrupt),
        folder.restored_on_error(lambda *paths: told.append(paths)),
    ):
        raise KeyboardInterrupt
    assert content(tmp_path) == before
    assert told == [(moved, place)]
    new = make(tmp_path / "new")
    with pytest.raises(ValueError, match="no luck"), new.restored_on_error():
        raise ValueError("no luck")
    assert content(tmp_path) == before


def test_a_run_that_fails_later_keeps_what_it_has(tmp_path):
    place = tmp_path / "quickstart"
    finished(place)
    folder = make(place)

    def run():
        with folder.restored_on_error():
            folder.append(measurements()[1])
            raise ValueError("no luck")

    with pytest.raises(ValueError, match="no luck"):
        run()
    assert load_measurements(place) == [measurements()[1]]
    assert folder.aside is not None
    assert load_measurements(folder.aside) == [measurements()[0]]


def test_a_folder_that_cannot_be_written_is_given_back(tmp_path, monkeypatch):
    place = tmp_path / "quickstart"
    finished(place)
    before = content(tmp_path)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"scenario\.toml: cannot be written: No space left"):
        make(place)
    assert content(tmp_path) == before


def test_a_folder_somebody_else_has_just_made_is_theirs(tmp_path):
    (tmp_path / "q").mkdir()
    room = make_room(tmp_path / "q")
    theirs = make(tmp_path / "q")
    with pytest.raises(ResultsError, match="another run is writing there"):
        make(tmp_path / "q")
    theirs.append(measurements()[0])
    assert room.aside is None
    assert load_measurements(tmp_path / "q") == [measurements()[0]]


def test_records_of_a_folder_that_is_gone_are_not_lost_silently(tmp_path):
    folder = make(tmp_path / "q")
    folder.path.rename(tmp_path / "away")
    with pytest.raises(
        ResultsError, match=r"measurements\.jsonl: was moved or deleted while a run"
    ):
        folder.append(measurements()[0])
    make(tmp_path / "q")
    with pytest.raises(ResultsError, match="was moved or deleted"):
        folder.append(measurements()[0])


@pytest.mark.parametrize("left", ["missing", "empty", "torn"])
def test_what_is_missing_of_a_folder_is_made_again(tmp_path, left):
    jobs = [f"job {number}" for number in range(2)]
    first, second = (
        record.model_copy(update={"job": job})
        for record, job in zip(measurements()[:2], jobs, strict=True)
    )
    folder = make(tmp_path / "q")
    folder.append(first)
    folder.close()
    whole = folder.environment_path.read_bytes()
    for path in (folder.environment_path, folder.scenario_path):
        path.unlink() if left == "missing" else path.write_bytes(b"" if left == "empty" else b"{")
    again = ResultsFolder.resume(folder.path, TEXT, "quickstart", jobs)
    assert again.scenario_text() == TEXT
    assert again.origin().environment is not None
    assert again.measurements() == [first]
    again.append(second)
    again.close()
    assert write_report(again).read_text().count("quickstart")
    assert len(folder.environment_path.read_bytes()) == len(whole)


def test_a_report_of_a_folder_without_its_origin_says_what_the_records_do(tmp_path):
    folder = finished(tmp_path / "q")
    folder.environment_path.unlink()
    folder.scenario_path.unlink()
    with pytest.warns(UserWarning, match=r"(environment\.json|scenario\.toml): No such file"):
        page = write_report(folder).read_text()
    assert measurements()[0].machine in page
    assert "<h3>scenario.toml</h3>" not in page


def test_lines_and_marks_of_other_systems_are_read(tmp_path):
    records = measurements()[:2]
    text = "".join(f"{record.model_dump_json()}\r\n" for record in records)
    (tmp_path / "measurements.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load_measurements(tmp_path) == records
