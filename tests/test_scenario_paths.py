"""What a scenario names lies beside it, wherever a command runs and the scenario is kept."""

import html
import re
import shlex
import shutil

import pytest
from typer.testing import CliRunner

from dgc_topo.cli.main import app
from dgc_topo.experiments.jobs import plan_jobs
from dgc_topo.experiments.scenario import ScenarioError, load_scenario, parse_scenario
from dgc_topo.experiments.scenario.load import kept_of
from dgc_topo.network.calibrated import CalibratedNetwork, Parameters
from dgc_topo.records.folder import ResultsFolder
from dgc_topo.records.records import load_measurements

STAR = '''
"""A star around rank 0."""
import numpy as np
from dgc_topo.schedule import Schedule, copy, reduce

def schedule(world_size: int) -> Schedule:
    others = np.arange(1, world_size)
    hub = np.zeros_like(others)
    return Schedule.from_steps(world_size, 1, [reduce(others, hub), copy(hub, others)])
'''

TEXT = """
name = "mine"
[[topologies]]
name = "ideas/star.py"
[[networks]]
name = "measured"
kind = "calibrated"
file = "lab.toml"
rate = "1Gbit/s"
[simulate]
networks = ["measured"]
world_sizes = [2, 4]
[[simulate.workloads]]
model = "resnet50"
"""

TRAIN = """
[train]
dataset = "image-folder"
data_path = "pictures"
model = "mlp"
world_size = 2
batch_size_per_worker = 8
epochs = 1
learning_rate = 0.1
"""


@pytest.fixture
def scenario(tmp_path):
    """Return a scenario in a folder with all that it names."""
    folder = tmp_path / "my work"
    (folder / "ideas").mkdir(parents=True)
    (folder / "ideas" / "star.py").write_text(STAR)
    network = CalibratedNetwork(
        name="lab",
        machine="m",
        parameters=Parameters(latency_s=1e-4),
        median_fit_error=0,
        worst_fit_error=0,
    )
    network.save(folder / "lab.toml")
    (folder / "mine.toml").write_text(TEXT)
    return folder / "mine.toml"


def run(*words):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


def without_times(records):
    return [record.model_dump(exclude={"created"}) for record in records]


def test_records_are_the_same_wherever_a_scenario_is_run_from(scenario, tmp_path, monkeypatch):
    found: list[list[dict[str, object]]] = []
    for place, path in ((scenario.parent, scenario.name), (tmp_path, "my work/mine.toml")):
        monkeypatch.chdir(place)
        run("simulate", path, "-o", tmp_path / f"out{len(found)}")
        found.append(without_times(load_measurements(tmp_path / f"out{len(found)}")))
    assert found[0] == found[1]
    assert {record["topology"] for record in found[0]} == {"ideas/star.py"}


def test_run_it_again_works_from_where_the_report_says(scenario, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("simulate", scenario)
    folder = ResultsFolder("results/mine")
    text = re.search(r"<pre><code>(dgc-topo .*?)</code>", folder.report_path.read_text())
    assert text is not None
    program, *words = shlex.split(html.unescape(text[1]))
    assert program == "dgc-topo"
    monkeypatch.chdir(folder.path)
    run(*words)
    again = ResultsFolder(tmp_path / "results" / "mine-again")
    assert without_times(again.measurements()) == without_times(
        load_measurements(tmp_path / "results" / "mine")
    )
    assert again.scenario_text() == (tmp_path / "results/mine/scenario.toml").read_text()
    assert again.origin().command == ("dgc-topo", "simulate", "scenario.toml")


def test_results_can_be_moved_to_a_machine_without_what_the_scenario_named(scenario, tmp_path):
    run("simulate", scenario, "-o", tmp_path / "out")
    moved = (tmp_path / "out").rename(tmp_path / "elsewhere")
    shutil.rmtree(scenario.parent)
    assert (moved / "scenario.toml").read_text() == f'folder = "files"\n{TEXT}'
    again = tmp_path / "again"
    run("simulate", moved / "scenario.toml", "-o", again)
    assert without_times(load_measurements(again)) == without_times(load_measurements(moved))
    assert (again / "scenario.toml").read_text() == (moved / "scenario.toml").read_text()
    for name in ("ideas/star.py", "lab.toml"):
        assert (again / "files" / name).read_bytes() == (moved / "files" / name).read_bytes()


@pytest.mark.parametrize("uncopied", ["data", "outside", "in turn"])
def test_paths_stay_where_they_were_if_results_have_no_copy(scenario, uncopied):
    text, folder = TEXT, scenario.parent
    if uncopied == "data":
        text += TRAIN
    elif uncopied == "outside":
        text = text.replace("ideas/star.py", "../star.py")
        (folder.parent / "star.py").write_text(STAR)
    else:
        (folder / "lab2.toml").write_text('kind = "calibrated"\nfile = "lab.toml"\n')
        text = text.replace('["measured"]', '["lab2.toml"]')
    kept = kept_of(text, parse_scenario(text, "mine.toml", folder), folder)
    assert kept.text == f'folder = "{folder}"\n{text}'
    assert parse_scenario(kept.text, "kept.toml", folder.parent / "out").topologies


def test_a_scenario_that_names_no_files_is_kept_as_it_is(scenario, tmp_path):
    text = TEXT.replace("ideas/star.py", "ring").replace("measured", "1gbe", 0)
    text = re.sub(r"\[\[networks\]\].*?(?=\[simulate\])", "", text, flags=re.DOTALL)
    scenario.write_text(text.replace('"measured"', '"1gbe"'))
    run("simulate", scenario, "-o", tmp_path / "out")
    assert ResultsFolder(tmp_path / "out").scenario_path.read_bytes() == scenario.read_bytes()


def test_runs_are_the_same_jobs_wherever_the_scenario_lies(scenario, tmp_path):
    scenario.write_text(TEXT + TRAIN)
    [job], _ = plan_jobs(load_scenario(str(scenario)))
    assert job.train.data_folder == scenario.parent / "pictures"
    moved = tmp_path / "elsewhere"
    scenario.parent.rename(moved)
    [other], _ = plan_jobs(load_scenario(moved / "mine.toml"))
    assert other.key == job.key
    assert other.topology.schedule(4).num_chunks == 1
    assert other.train.data_folder == moved / "pictures"


def test_the_folder_of_a_scenario_is_absolute_and_nothing_else_has_one(scenario):
    expected = "folder: 'here': expected an absolute path, or 'files' for copies beside the file"
    with pytest.raises(ScenarioError, match=expected):
        parse_scenario('folder = "here"' + TEXT)
    for key in ("[[topologies]]", "[train]"):
        text = (TEXT + TRAIN).replace(key, f'{key}\nfolder = "/tmp"')
        with pytest.raises(ScenarioError, match=r"folder: unknown key; valid here") as refused:
            parse_scenario(text, "s.toml", scenario.parent)
        assert "folder," not in str(refused.value).partition("valid here")[2]


def test_marks_and_line_ends_of_other_systems_are_read(scenario):
    plain = load_scenario(scenario)
    scenario.write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
    network = scenario.parent / "lab.toml"
    network.write_bytes(b"\xef\xbb\xbf" + network.read_bytes().replace(b"\n", b"\r\n"))
    assert load_scenario(scenario) == plain
    scenario.write_bytes(TEXT.encode("utf-16"))
    with pytest.raises(ScenarioError, match=r"mine\.toml: cannot be read: .* in UTF-8$") as refused:
        load_scenario(scenario)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "name",
    [".", "..", "../x", "/tmp", ".hidden", "-o", "a/b", "a\\u0000b", "a\\nb", "", " ", "x" * 201],
)
def test_a_name_is_never_a_path(name):
    text = TEXT.replace("ideas/star.py", "ring")
    with pytest.raises(ScenarioError, match=r"^s\.toml: name: .* expected [^\n]*$"):
        parse_scenario(text.replace('"mine"', f'"{name}"'), "s.toml")
    table = text.replace('name = "measured"', f'name = "{name}"')
    with pytest.raises(ScenarioError, match=r"s\.toml: networks\.0\.name: "):
        parse_scenario(table, "s.toml")


def test_nothing_is_touched_before_the_whole_input_is_known_to_be_good(scenario, tmp_path):
    place = tmp_path / "out"
    run("simulate", scenario, "-o", place)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    star = scenario.parent / "ideas" / "star.py"
    for file, text, says in (
        (scenario, TEXT.replace("[2, 4]", "[2, inf]"), "world_sizes.1 = inf"),
        (scenario, TEXT.replace("lab.toml", "none.toml"), "No such file"),
        (
            star,
            "def schedule(world_size):\n    return 1 / (4 - world_size)\n",
            "simulate.world_sizes",
        ),
        (star, STAR.replace("others, hub", "others, others"), "simulate.world_sizes"),
    ):
        file.write_text(text)
        done = CliRunner().invoke(app, ["simulate", str(scenario), "-o", str(place)])
        assert done.exit_code == 2
        assert says in done.output
        file.write_bytes(before[file])
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_earlier_results_that_are_renamed_are_told(scenario, tmp_path):
    run("simulate", scenario, "-o", tmp_path / "out")
    output = run("simulate", scenario, "-o", tmp_path / "out")
    [aside] = tmp_path.glob("out-2*")
    assert f"earlier results: {tmp_path / 'out'} is now {aside}" in output.replace("\n", "")
