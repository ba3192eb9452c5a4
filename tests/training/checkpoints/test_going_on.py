"""What an interrupted command says about how to go on."""

import pytest

from dgc_topo.cli.going_on import saying_how_to_go_on
from dgc_topo.experiments.jobs import Part, plan_jobs
from dgc_topo.experiments.scenario import load_scenario
from dgc_topo.python_files import AskedToEnd
from dgc_topo.records.folder import ResultsFolder
from dgc_topo.topology import load_topology
from dgc_topo.training.checkpoints.keeping import Keeping
from dgc_topo.workers import LaunchError
from tests.training.checkpoints.runs import changed, stopped
from tests.training.tiny import write_tiny

HOW = "the same command goes on from the newest checkpoint"


def test_a_checkpoint_is_spoken_of_only_where_there_is_one(tmp_path):
    """Of the runs that the command is about; another topology's is no help."""
    path = write_tiny(tmp_path, "ring", "tree", world_size=2, densities=[0.01])
    path.write_text(path.read_text().replace("timeout_s", 'workers = "virtual"\ntimeout_s'))
    folder = tmp_path / "out"

    def said(error: BaseException, topology: str) -> list[str]:
        with (
            pytest.raises(type(error)) as caught,
            saying_how_to_go_on(HOW, path, folder, lambda: Part(load_topology(topology))),
        ):
            raise error
        return getattr(caught.value, "__notes__", [])

    anew = ["the same command begins anew: there is no checkpoint and no record yet"]
    assert said(AskedToEnd(143), "ring") == anew
    ResultsFolder.create(folder, path.read_text(), "tiny").close()
    assert said(KeyboardInterrupt(), "ring") == anew
    job = next(job for job in plan_jobs(load_scenario(path))[0] if job.topology.name == "ring")
    stopped(changed(job, checkpoint_every=2), folder, 3)
    assert Keeping(folder=folder).checkpoints_of(job).is_dir()
    lost = LaunchError("rank 1 was lost")
    assert said(lost, "ring") == []  # an error of its own: nothing was lost
    lost.loss = object()  # type: ignore[assignment]
    assert said(lost, "ring") == said(AskedToEnd(143), "ring") == [HOW]
    assert said(AskedToEnd(143), "tree") == anew
