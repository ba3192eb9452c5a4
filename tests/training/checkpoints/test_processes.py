"""Real processes: whatever ends a run, the next start goes on and ends with the same bits."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dgc_topo as dt
from dgc_topo.experiments.jobs import plan_jobs
from dgc_topo.experiments.scenario import load_scenario
from dgc_topo.records.folder import ResultsFolder
from dgc_topo.records.measurement import Measurement
from dgc_topo.workers import Session
from tests.forked import forked
from tests.training.checkpoints.runs import train
from tests.training.tiny import write_tiny

STEPS = 60


@pytest.fixture(scope="module")
def scenario(tmp_path_factory) -> Path:
    """A scenario of two runs on two workers, with a checkpoint after every second step."""
    path = write_tiny(
        tmp_path_factory.mktemp("scenario"), "ring", world_size=2, steps=STEPS, batch_size=4
    )
    every = "checkpoint_every = 2\n[compression]"
    path.write_text(path.read_text().replace("[compression]", every))
    return path


def measured(folder: Path) -> list[Measurement]:
    return [r for r in ResultsFolder(folder).measurements() if r.kind == "measured"]


def started(path: Path, folder: Path) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-m", "dgc_topo", "compare", str(path), "-o", str(folder)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_set(folder: Path, which: str, number: int) -> None:
    """Wait until so many checkpoints of a run have been complete."""
    while not any(
        int(path.parent.name.removeprefix("set-")) >= number
        for path in folder.glob(f"checkpoints/{which}/set-*/manifest.json")
    ):
        time.sleep(0.01)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_compare_goes_on_in_the_middle_of_a_run(scenario, tmp_path):
    """SIGKILL and Ctrl-C: what is finished stays, what was under way goes on, to the same bits."""
    folder = tmp_path / "out"
    for kind, number in ((signal.SIGKILL, 4), (signal.SIGINT, 12)):
        process = started(scenario, folder)
        wait_for_set(folder, "ring-density*", number)
        process.send_signal(kind)
        said, _ = process.communicate()
        assert process.returncode != 0
        assert len(measured(folder)) == 1
    assert "left out: 1 of 2 runs, which are there already" in said
    assert "going on with ring, density 0.01 after step" in said
    first = measured(folder)[0]
    process = started(scenario, folder)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    records = measured(folder)
    assert records[0] == first
    for record, job in zip(records, plan_jobs(load_scenario(scenario))[0], strict=True):
        alone = train(job)  # virtual workers, never stopped
        assert (record.parameters, record.quality) == (alone.parameters, alone.quality)
    assert [len(record.resumed_at) for record in records] == [0, 2]
    assert not (folder / "checkpoints").exists()
    models = dt.load_results(folder).models()
    assert len(models) == 2
    for _, path in models:
        assert torch.load(path, weights_only=True).keys() >= {"hidden.weight"}
    kinds = [record.kind for record in ResultsFolder(folder).measurements()]
    assert kinds == ["measured"] * 2 + ["predicted"] * 8


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("topology", ["ring", "gossip"])
def test_sigterm_and_resume_end_with_the_same_bits(tmp_path, topology):
    """By the command, on processes; gossip's ranks have parameters of their own."""
    density = 0.01 if topology == "ring" else 1.0
    sizes: dict[str, Any] = {"world_size": 2, "steps": STEPS, "batch_size": 4}
    path = write_tiny(tmp_path, topology, densities=[density], **sizes)
    every = "checkpoint_every = 2\n[compression]"
    path.write_text(path.read_text().replace("[compression]", every))
    folder = tmp_path / "out"
    arguments = [sys.executable, "-m", "dgc_topo", "train", str(path), "--topology", topology]
    arguments += ["--resume", "-o", str(folder)]
    how: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(arguments, **how)
    wait_for_set(folder, f"{topology}*", 4)
    process.terminate()
    said, _ = process.communicate()
    assert process.returncode == 143
    assert "nothing to go on with, so it begins at step 0" in said
    assert "; the same command goes on from the newest checkpoint" in said
    done = subprocess.run(arguments, check=False, **how)
    assert done.returncode == 0, done.stdout
    assert f"going on with {topology}" in done.stdout
    (record,) = measured(folder)
    alone = train(plan_jobs(load_scenario(path))[0][0])  # virtual workers, never stopped
    assert (record.parameters, record.quality) == (alone.parameters, alone.quality)
    assert len(record.resumed_at) == 1


@pytest.mark.slow
def test_ddp_gossip_and_overlap_go_on_with_the_same_bits(tmp_path):
    """One start of three processes: each kind runs whole, then stops and goes on."""
    own = str(tmp_path / "own")
    with Session(forked(), 3) as session:
        argument = {"folder": str(tmp_path), "steps": 6, "stop": 9}
        results = session.call("tests.training.checkpoints.jobs:stop_and_go_on", argument)
        before = session.call("tests.training.checkpoints.jobs:save_own", own)
        after = session.call("tests.training.checkpoints.jobs:load_own", own, world_size=2)
        lone, shared = (
            session.call(f"tests.training.checkpoints.jobs:{job}", f"{own}-1", world_size=size)
            for job, size in (("save_residual", 1), ("load_residual", 2))
        )
    assert np.sum(shared, axis=0) == pytest.approx(lone[0], rel=1e-6, abs=1e-7)
    # Own loops: residuals of three ranks are shared out among two.
    assert np.sum(after, axis=0) == pytest.approx(np.sum(before, axis=0), rel=1e-6, abs=1e-7)
    assert after[1] == before[1]
    assert results[0].keys() == {"ddp", "ddp-powersgd", "gossip", "overlap"}
    for rank, found in enumerate(results):
        for kind, (whole, again) in found.items():
            assert whole == again, (rank, kind)
    assert results[0]["gossip"] != results[1]["gossip"]  # parameters of their own


def test_a_rank_that_is_lost_while_others_save_is_named(tmp_path):
    """A silent machine closes no connection, and the script's own group has a long time-out."""
    with Session(forked(), 2) as session:
        said, _ = session.call("tests.training.checkpoints.jobs:save_without_rank_1", str(tmp_path))
    assert "rank 1 is silent in training step 7, while computing (nothing heard of it)" in said


def test_what_fails_on_one_rank_fails_on_all_and_changes_nothing(tmp_path):
    """Else the others would wait for it in the next gathering, or go on from another place."""
    with Session(forked(), 3) as session:
        said = session.call("tests.training.checkpoints.jobs:fail_alone", str(tmp_path / "run"))
    assert said[0] == said[2]
    for own, others in zip(said[1], said[0], strict=True):
        assert others == f"rank 1: {own}"
    parts = [
        "note",
        "(10, 20), expected (10, 21)",
        "missing ['dgc'], unknown ['optimizer']",
        "unfit",
    ]
    for own, part in zip(said[1], parts, strict=True):
        assert part in own
