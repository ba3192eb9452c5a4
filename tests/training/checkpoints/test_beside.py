"""Several runs of one scenario in one results folder: each keeps what it has, and goes on."""

import shutil

import pytest

from dgc_topo.experiments.continuation import Start, jobs_beside, start_of
from dgc_topo.experiments.jobs import Part, plan_jobs
from dgc_topo.experiments.runner import Place
from dgc_topo.experiments.scenario import Scenario, parse_scenario
from dgc_topo.records.folder import ResultsFolder
from dgc_topo.records.records import ResultsError
from dgc_topo.topology import load_topology
from dgc_topo.training.checkpoints.keeping import Keeping, check_checkpoints
from dgc_topo.training.job import Job
from tests.training.checkpoints.runs import stopped, train
from tests.training.tiny import write_tiny


@pytest.fixture
def whole(tmp_path) -> Scenario:
    path = write_tiny(tmp_path, "ring", "tree", world_size=2, batch_size=4, densities=[0.02])
    text = path.read_text().replace(
        "timeout_s", 'checkpoint_every = 2\nworkers = "virtual"\ntimeout_s'
    )
    path.write_text(text)
    return parse_scenario(text, str(path), tmp_path)


@pytest.fixture
def began(whole, tmp_path):
    """Return a function that begins a part as the command with ``--resume`` does."""

    def begin(topology: str, world_size: int | None = None) -> tuple[Job, Start, ResultsFolder]:
        part = Part(load_topology(topology), world_size=world_size)
        scenario = part.of(whole)
        (job,), _ = plan_jobs(scenario)
        file = tmp_path / "tiny.toml"
        place = Place(file, file.read_text(), scenario, tmp_path / "out", ("train",))
        start = start_of(
            place.folder,
            scenario,
            [job],
            wanted=True,
            insists=True,
            beside=jobs_beside(whole, [job]),
        )
        folder = place.open(lambda *_: pytest.fail("renamed"), start.keep)
        folder.close()
        return job, start, folder

    return begin


def step_of(job: Job, folder: ResultsFolder) -> int | None:
    manifest = check_checkpoints(Keeping(folder=folder.path), job)
    return None if manifest is None else manifest.step


@pytest.mark.parametrize("size", [None, 3])
def test_each_of_two_interrupted_runs_goes_on(began, size):
    ring, start, folder = began("ring", size)
    assert start.keep is None  # nothing was there
    stopped(ring, folder.path, 3)
    tree, start, folder = began("tree", size)
    assert start.missing == [tree]
    stopped(tree, folder.path, 5)
    assert (step_of(ring, folder), step_of(tree, folder)) == (2, 4)
    for job in (ring, tree):
        name = str(job.topology)
        _, start, folder = began(name, size)
        assert start.missing == [job]
        record = train(job, folder.path, resume=start.keep is not None)
        assert record.resumed_at == (2 if job is ring else 4,)
        folder.append(record)
        folder.close()
        shutil.rmtree(Keeping(folder=folder.path).checkpoints_of(job))
        if job is ring:
            assert step_of(tree, folder) == 4
    for name in ("ring", "tree"):
        assert began(name, size)[1].missing == []
    kept = [record.topology for record in folder.measurements()]
    assert kept == ["ring", "tree"]


def test_a_run_that_is_not_of_the_scenario_is_neither_renamed_nor_joined(began):
    other, _, folder = began("mesh")
    stopped(other, folder.path, 3)
    with pytest.raises(ResultsError, match=r"checkpoints of another run, mesh-density.*--output"):
        began("ring")
    assert step_of(other, folder) == 2
    assert began("mesh")[1].missing == [other]


def test_predictions_of_a_run_beside_count_when_all_is_asked_to_be_there(began):
    """Two runs have records and one has predictions: it is not over."""
    for name in ("ring", "tree"):
        job, start, folder = began(name)
        folder.append(train(job))
        folder.close()
    assert [job.topology.name for job in start.beside] == ["ring"]
    _, start, _ = began("tree")
    assert not start.is_over
