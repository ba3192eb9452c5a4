import json
import os
from datetime import UTC

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from dgc_topo.cli.main import app
from dgc_topo.files import WriteError
from dgc_topo.records.folder import ResultsFolder
from dgc_topo.records.measurement import Measurement, Phases, SparseSizes
from dgc_topo.records.quality import Quality, QualityPoint
from dgc_topo.records.records import ResultsError, load_measurements
from tests.report.synthetic import measurements

SCENARIO = "# kept as it is\r\nname = 'q\u00fc'\n"

seconds = st.floats(min_value=0, allow_nan=False)
values = st.floats(allow_nan=False)
finite = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(min_value=0, max_value=2**62)
sizes = st.integers(min_value=1, max_value=2**31)
phases = st.builds(Phases, **dict.fromkeys(Phases.model_fields, seconds))
sparse = st.builds(
    SparseSizes,
    length=sizes,
    dense_elements=counts,
    entries=seconds,
    merged_entries=seconds,
    bytes_per_entry=sizes,
)
points = st.builds(
    QualityPoint, epoch=counts, step=counts, value=values, train_loss=st.none() | values
)
qualities = st.builds(
    Quality,
    metric=st.sampled_from(["accuracy", "perplexity"]),
    points=st.lists(points, min_size=1, max_size=3).map(tuple),
)
options = st.dictionaries(
    st.text(max_size=5), st.text(max_size=5) | st.booleans() | counts | finite, max_size=3
)
records = st.builds(
    Measurement,
    kind=st.sampled_from(["measured", "predicted"]),
    scenario=st.text(max_size=9),
    created=st.datetimes(timezones=st.just(UTC)),
    machine=st.text(max_size=9),
    topology=st.text(max_size=9),
    options=options,
    world_size=sizes,
    num_workers=sizes,
    network=st.text(max_size=9),
    workload=st.text(max_size=9),
    compression=st.text(max_size=9),
    density=st.floats(min_value=1e-9, max_value=1),
    seed=st.integers(-(2**62), 2**62),
    batch_size_per_worker=sizes,
    num_steps=counts,
    step_time_s=seconds,
    phases=phases,
    samples_per_s=seconds,
    gradient_bytes=counts,
    compressed_bytes=seconds,
    wire_bytes_per_step=seconds,
    messages_per_step=seconds,
    sparse=st.none() | sparse,
    solo_phases=st.none() | phases,
    quality=st.none() | qualities,
    speedup=st.none() | seconds,
)


@pytest.fixture
def folder(tmp_path):
    return ResultsFolder.create(tmp_path / "quickstart", SCENARIO, "quickstart")


@settings(max_examples=50)  # disks take their time
@given(st.lists(records, max_size=3))
def test_what_is_written_is_read_back(tmp_path_factory, written):
    folder = ResultsFolder.create(tmp_path_factory.mktemp("r"), SCENARIO, "any")
    for record in written:
        folder.append(record)
    assert folder.measurements() == written
    assert load_measurements(folder.measurements_path) == written


def test_every_line_is_json_also_when_a_run_diverged(folder):
    record = measurements()[0]
    points = (QualityPoint(epoch=1, step=9, value=float("inf"), train_loss=float("nan")),)
    quality = Quality(metric="perplexity", points=points)
    folder.append(record.model_copy(update={"quality": quality}))
    text = folder.measurements_path.read_text()
    assert json.loads(text, parse_constant=pytest.fail)
    (back,) = folder.measurements()
    assert back.quality is not None
    assert back.quality.final == float("inf")


def test_the_scenario_and_its_origin_are_kept(folder):
    assert folder.scenario_path.read_bytes() == SCENARIO.encode()
    assert folder.scenario_text() == SCENARIO.replace("\r\n", "\n")
    assert folder.origin().scenario == "quickstart"
    assert folder.origin().environment.num_cores >= 1
    assert "torch" in str(folder.origin().environment)


def test_a_record_cut_off_by_a_crash_costs_only_itself(tmp_path):
    first, second, third = measurements()[:3]
    path = tmp_path / "measurements.jsonl"
    whole = "".join(f"{record.model_dump_json()}\n" for record in (first, second))
    path.write_text(whole[:-30])
    with pytest.warns(UserWarning, match=r"jsonl:2: the last record was cut off .* the 1 records"):
        assert load_measurements(tmp_path) == [first]
    ResultsFolder(tmp_path).append(third)
    assert load_measurements(tmp_path) == [first, third]


def test_a_last_line_without_its_end_is_still_a_record(tmp_path):
    first, second = measurements()[:2]
    (tmp_path / "measurements.jsonl").write_text(first.model_dump_json())
    assert load_measurements(tmp_path) == [first]
    ResultsFolder(tmp_path).append(second)
    assert load_measurements(tmp_path) == [first, second]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{oops", "Invalid JSON"),
        ('{"kind": "measured"}', "scenario: Field required"),
        (None, "step_time_s: Input should be greater than or equal to 0"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, problem):
    record = measurements()[0]
    bad = line or record.model_dump_json().replace('"step_time_s":', '"step_time_s":-')
    path = tmp_path / "measurements.jsonl"
    path.write_text(f"{record.model_dump_json()}\n\n{bad}\n{record.model_dump_json()}\n")
    with pytest.raises(ResultsError) as error:
        load_measurements(path)
    assert str(error.value).startswith(f"{path}:3: {problem}")
    assert "expected one measurement in JSON (dgc-topo schema measurement" in str(error.value)


def test_a_failed_write_leaves_whole_records(folder, monkeypatch):
    first, second = measurements()[:2]
    folder.append(first)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match=r"measurements\.jsonl: cannot be written: No space"):
        folder.append(second)
    assert folder.measurements() == [first]


def test_an_interrupt_loses_no_whole_record_and_leaves_no_half(folder, monkeypatch):
    first, second, third = measurements()[:3]
    folder.append(first)
    write = os.write

    def interrupted(*_):
        raise KeyboardInterrupt

    def half(descriptor, line):
        write(descriptor, line[: len(line) // 2])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            folder.append(second)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(KeyboardInterrupt):
            folder.append(third)
    assert folder.measurements() == [first, second]


def test_a_foreign_folder_is_left_alone(tmp_path):
    precious = tmp_path / "thesis.tex"
    precious.write_text("years of work")
    with pytest.raises(ResultsError, match="not dgc-topo results, expected a new or empty folder"):
        ResultsFolder.create(tmp_path, SCENARIO, "quickstart")
    with pytest.raises(ResultsError, match="a file, expected a folder"):
        ResultsFolder.create(precious, SCENARIO, "quickstart")
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_second_run_moves_the_first_aside(tmp_path):
    place = tmp_path / "quickstart"
    runs = measurements()[:3]
    for record in runs:
        folder = ResultsFolder.create(place, SCENARIO, "quickstart")
        folder.append(record)
        del folder  # the run is over
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names[0] == "quickstart"
    assert all(name.startswith("quickstart-2") for name in names[1:])
    found = [record for name in names for record in load_measurements(tmp_path / name)]
    assert found[0] == runs[-1]
    assert all(record in found for record in runs)
    assert len(found) == len(runs)


def test_two_runs_at_once_do_not_share_a_folder(folder):
    with pytest.raises(ResultsError, match="another run is writing there"):
        ResultsFolder.create(folder.path, "other", "other")
    with pytest.raises(ResultsError, match="another run is writing there"):
        ResultsFolder(folder.path).append(measurements()[0])
    assert folder.origin().scenario == "quickstart"


def test_folders_without_results_are_told_apart(tmp_path):
    empty, validation, file = tmp_path / "empty", tmp_path / "validation", tmp_path / "file"
    for folder in (empty, validation):
        folder.mkdir()
    for path in (validation / "validation.jsonl", file):
        path.touch()
    for read in (ResultsFolder, load_measurements):
        with pytest.raises(ResultsError, match=r"empty: no measurements\.jsonl in there"):
            read(empty)
        with pytest.raises(ResultsError, match=r"holds a validation .* --measured .*validation "):
            read(validation)
    with pytest.raises(ResultsError, match="none: no such folder, expected one of results"):
        ResultsFolder(tmp_path / "none")
    with pytest.raises(ResultsError, match="file: a file, expected a folder of results"):
        ResultsFolder(file)


def test_missing_files_are_named(folder):
    folder.environment_path.write_text("{}")
    with pytest.raises(ResultsError, match=r"environment\.json: scenario: Field required"):
        folder.origin()
    folder.scenario_path.unlink()
    with pytest.raises(ResultsError, match=r"scenario\.toml: No such file"):
        folder.scenario_text()
    with pytest.raises(ResultsError, match="no such file"):
        load_measurements(folder.path / "none")


def test_files_that_a_scenario_uses_are_kept_beside_it(tmp_path):
    used = {}
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        used[f"{place}/mine.py"] = tmp_path / place / "mine.py"
        used[f"{place}/mine.py"].write_text(f"# of {place}\n")
    folder = ResultsFolder.create(tmp_path / "out", SCENARIO, "q", files=used)
    copies = folder.path / "files"
    kept = {str(file.relative_to(copies)): file.read_text() for file in copies.rglob("*.py")}
    assert kept == {"a/mine.py": "# of a\n", "b/mine.py": "# of b\n"}
    folder.append(measurements()[0])
    folder.close()
    used["a/mine.py"].write_text("# edited\n")
    again = ResultsFolder.create(tmp_path / "out", SCENARIO, "q", files=used)
    assert again.aside is not None
    assert (again.aside / "files" / "a" / "mine.py").read_text() == "# of a\n"
    with pytest.raises(KeyboardInterrupt), again.restored_on_error():
        raise KeyboardInterrupt
    assert (tmp_path / "out" / "files" / "a" / "mine.py").read_text() == "# of a\n"
    assert not again.aside.exists()


def test_a_run_keeps_its_own_topology(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from dgc_topo.topologies import ring\n"
        "def schedule(world_size: int): return ring.schedule(world_size)\n"
    )
    scenario = tmp_path / "s.toml"
    scenario.write_text(
        'name = "s"\n[[topologies]]\nname = "mine.py"\n'
        '[simulate]\nnetworks = ["1gbe"]\nworld_sizes = [2]\n'
        '[[simulate.workloads]]\nmodel = "alexnet"\ncompute_s = 0.1\nbatch_size_per_worker = 1\n'
    )
    result = CliRunner().invoke(app, ["simulate", str(scenario), "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    kept = tmp_path / "out" / "files" / "mine.py"
    assert kept.read_text() == (tmp_path / "mine.py").read_text()
