"""Throughput of training: what is run, in which order, and what one worker alone does to it."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dgc_topo.cli.main import app
from dgc_topo.experiments.bench.training import TrainingBench
from dgc_topo.experiments.jobs import ALONE, throughput_jobs
from dgc_topo.experiments.scenario import ScenarioError, load_scenario, parse_scenario
from dgc_topo.training.launch import Finished
from dgc_topo.workers import LaunchError
from tests.forked import forked
from tests.records import measurement

SCENARIOS = Path(__file__).parents[3] / "scenarios"

SCENARIO = """
name = "few-steps"
topologies = [
    { name = "ring" },
    { name = "parameter-server", options = { server = "dedicated" } },
    { name = "gossip" },
]
[train]
dataset = "fashion-mnist-subset"
model = "mlp"
world_size = 3
batch_size_per_worker = 8
epochs = 1
max_steps_per_epoch = 6
learning_rate = 0.01
[compression]
warm_up = "none"
[throughput]
world_sizes = [2, 3]
rounds = 2
ways = [
    { name = "DDP", method = "ddp" },
    { name = "dense" },
    { name = "DGC", densities = [0.01] },
]
"""


def test_every_way_over_every_topology_it_goes_over_and_one_worker_first():
    jobs, left_out = throughput_jobs(parse_scenario(SCENARIO))
    found = [(job.rung, job.train.world_size, job.topology.name) for job in jobs]
    assert found[0] == (ALONE, 1, "ring")
    for number, size in enumerate((2, 3)):
        assert found[1 + 6 * number : 7 + 6 * number] == [
            ("DDP", size, "ring"),  # over the backend's own all-reduce, whatever this says
            ("dense", size, "ring"),
            ("dense", size, "parameter-server"),
            ("dense", size, "gossip"),
            ("DGC", size, "ring"),
            ("DGC", size, "parameter-server"),
        ]
    assert len(found) == 13
    assert all("gossip averages whole parameters" in line for line in left_out)
    assert len(left_out) == 2
    assert {job.train.batch_size_per_worker for job in jobs} == {8}


def test_a_way_may_overlap_and_leave_topologies_out():
    """One worker alone never overlaps: all are compared with the same."""
    own = 'name = "dense", overlap = true, bucket_mib = 0.01, over_topologies = ["ring"]'
    jobs, _ = throughput_jobs(parse_scenario(SCENARIO.replace('name = "dense"', own)))
    found = [(job.topology.name, job.bucket_bytes) for job in jobs if job.rung == "dense"]
    assert found == [("ring", 0.01 * 2**20)] * 2
    assert {job.bucket_bytes for job in jobs if job.rung != "dense"} == {None}


@pytest.mark.parametrize(
    ("way", "bucket_mib"),
    [("", 0.5), ("overlap = true", 0.5), ("bucket_mib = 4.0", 4.0), ("overlap = false", None)],
)
def test_what_a_way_does_not_say_of_overlapping_is_as_trained(way, bucket_mib):
    text = SCENARIO.replace("epochs = 1\n", "epochs = 1\noverlap = true\nbucket_mib = 0.5\n")
    text = text.replace('name = "dense"', f'name = "dense"{way and ", "}{way}')
    jobs, _ = throughput_jobs(parse_scenario(text))
    found = {job.bucket_bytes for job in jobs if job.rung == "dense" and not job.topology.gossips}
    assert found == {bucket_mib and bucket_mib * 2**20}


def test_rows_compare_with_one_worker_of_the_same_run(tmp_path: Path, monkeypatch):
    hosts = "dgc_topo.experiments.bench.training._hosts"
    monkeypatch.setattr(hosts, lambda *_: nullcontext(forked()))
    path = tmp_path / "few-steps.toml"
    path.write_text(SCENARIO)
    result = CliRunner().invoke(app, ["bench", "training", str(path), "--json"])
    assert result.exit_code == 0, result.output
    alone, *rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert (alone["way"], alone["scaling_efficiency"], alone["wire_bytes_per_step"]) == (
        ALONE,
        1,
        0,
    )
    assert len(rows) == 12
    for row in rows:
        workers = row["world_size"] - (
            row["topology"].startswith("parameter") and row["way"] != "DDP"
        )
        assert row["num_workers"] == workers
        # Of two rounds, the mean of what is done per second is not 1 over the mean of the times.
        uneven = 1 / (1 - (row["spread"] / 2) ** 2)
        rate = 8 * workers / row["step_time_s"] * uneven
        assert row["samples_per_s"] == pytest.approx(rate, rel=0.5)
        efficiency = row["samples_per_s"] / workers / alone["samples_per_s"]
        assert row["scaling_efficiency"] == pytest.approx(efficiency)
        assert row["rounds"] == 2
    sent = {(row["way"], row["topology"]): row["wire_bytes_per_step"] for row in rows}
    assert sent["DGC", "ring"] < 0.1 * sent["dense", "ring"]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("[throughput]", "[throughput]\nrounds = 0", "rounds"),
        ('name = "dense"', 'name = "DDP"', "ways.1.name: 'DDP' is that of another way"),
        ("world_sizes = [2, 3]", "world_sizes = [1]", "greater than or equal to 2"),
        ("epochs = 1", 'epochs = 1\nworkers = "virtual"', "no times of a cluster"),
        (
            '{ name = "dense" }',
            '{ name = "dense", over_topologies = ["rings"] }',
            r"ways.1.over_topologies: rings, expected names under \[\[topologies\]\]: gossip",
        ),
        (
            '{ name = "dense" }',
            '{ name = "dense", overlap = true, scope = "model" }',
            "scope 'model' with train.overlap = true",
        ),
        (
            '{ name = "dense" }',
            '{ name = "dense", bucket_mib = 1 }',
            "bucket_mib: without overlap there is one bucket",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(old: str, new: str, says: str):
    text = SCENARIO.replace("rounds = 2\n", "").replace(old, new, 1)
    with pytest.raises(ScenarioError, match=says):
        parse_scenario(text)


def test_a_scenario_without_the_section_is_told_so():
    with pytest.raises(ScenarioError, match=r"expected \[train\] and \[throughput\]"):
        TrainingBench(load_scenario(SCENARIOS / "quickstart.toml"))


def test_what_fails_in_a_later_round_does_not_take_the_whole_ones_with_it(monkeypatch):
    bench = TrainingBench(parse_scenario(SCENARIO))
    assert bench.rows == []
    rounds = []

    def launch(jobs, listen, hosts):
        rounds.append(len(jobs))
        for number, job in enumerate(jobs):
            if len(rounds) == 2 and number == 1:
                raise LaunchError("worker of rank 1 was killed")
            listen(Finished(job=number, measurement=record(job)))

    monkeypatch.setattr("dgc_topo.experiments.bench.training.launch", launch)
    with pytest.raises(LaunchError):
        bench.run()
    assert len(bench.rows) == len(bench.jobs)
    assert {row.rounds for row in bench.rows} == {1}


def record(job):
    """What a run of a job could have measured."""
    return measurement(
        topology=job.topology.name,
        world_size=job.train.world_size,
        compression=job.compressor_name,
        density=job.density,
        num_steps=6,
    )


@pytest.mark.parametrize("name", ["throughput-1gbe-scaled", "throughput-emulated-1gbe-scaled"])
def test_shipped_scenarios_compare_with_ddp_on_4_and_8_workers(name: str):
    jobs, _ = throughput_jobs(load_scenario(SCENARIOS / f"{name}.toml"))
    assert {job.train.world_size for job in jobs} == {1, 4, 8}
    assert {"DDP", "DDP, fp16", "DDP, PowerSGD", "DGC 0.1 %"} <= {job.rung for job in jobs}
