"""Fingerprints of jobs never change: by them a ladder finds the records that it has."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dgc_topo.experiments.jobs import plan_jobs, throughput_jobs
from dgc_topo.experiments.scenario import load_scenario, parse_scenario
from dgc_topo.records.records import load_measurements
from dgc_topo.training.compression import CompressionSection
from dgc_topo.training.job import _settings_version_1
from dgc_topo.training.settings import TrainSection
from tests.own_code import write_own

ROOT = Path(__file__).parents[2]
#: Made by commit b002606: keys of trainings and throughputs, by scenario.
GOLDEN = json.loads((ROOT / "tests" / "golden" / "job_keys.json").read_text())
LADDERS = sorted((ROOT / "benchmarks" / "results").glob("*ladder*/measurements.jsonl"))


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_the_keys_of_shipped_and_recorded_scenarios_stay(name):
    scenario = load_scenario(ROOT / name)
    found = {"train": plan_jobs(scenario)[0]}
    if scenario.throughput is not None:
        found["throughput"] = throughput_jobs(scenario)[0]
    keys = {section: " ".join(job.key for job in jobs) for section, jobs in found.items()}
    assert keys == GOLDEN[name]


@pytest.mark.parametrize("path", LADDERS, ids=lambda path: path.parent.name)
def test_a_ladder_finds_its_committed_records(path):
    keys = {job.key for job in plan_jobs(load_scenario(path.parent / "scenario.toml"))[0]}
    recorded = {record.job for record in load_measurements(path.parent)}
    assert recorded <= keys


EVERYTHING = """
name = "other"
seed = 3
[[topologies]]
name = "butterfly"
options = { order = "far" }
[train]
dataset = "image-folder"
data_path = "pictures"
model = "mlp"
options = { augment = true }
world_size = 3
batch_size_per_worker = 5
epochs = 9
max_steps_per_epoch = 7
learning_rate = 1e-5
learning_rate_decay = "cosine"
momentum = 0.5
nesterov = true
weight_decay = 1e-4
clip_norm = 0.5
device = "cpu"
backend = "gloo"
workers = "virtual"
timeout_s = 30
[compression]
densities = [0.01]
wire_dtype = "float16"
index_encoding = "int32"
warm_up = "geometric"
warm_up_epochs = 2.0
selection = "exact"
scope = "model"
merge = "reselect"
accumulation = false
momentum_correction = false
clipping = false
masking = false
clear_velocities = "all"
clear_every_steps = 77
weight_decay_mode = "decoupled"
"""


OVERLAPPED = (
    EVERYTHING.replace("clip_norm = 0.5", "overlap = true\nbucket_mib = 2")
    .replace('scope = "model"', "")
    .replace('workers = "virtual"', "")
)
RESELECT = 'merge = "reselect"\n'
BALANCED = EVERYTHING + "balance = true\n"
POWERSGD = (
    OVERLAPPED.partition("[compression]")[0].replace("bucket_mib = 2", "")
    + '[compression]\nmethod = "ddp-powersgd"\npowersgd_rank = 4\npowersgd_start_step = 5'
)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (EVERYTHING.replace(RESELECT, ""), "d43e7e495783df8f"),
        (OVERLAPPED.replace(RESELECT, ""), "4f0b1314b0ed8a9a"),
        (POWERSGD, "890c192a4ae5f761"),
    ],
)
def test_a_job_of_which_nothing_is_as_by_default_has_the_key_it_had(text, key):
    """The keys are those that commit b002606 gives."""
    [job], _ = plan_jobs(parse_scenario(text))
    assert job.key == key


@pytest.mark.parametrize(
    ("text", "earlier"),
    [(EVERYTHING, "57679279b858d17e"), (OVERLAPPED, "5c4475964f293751")],
    ids=["after the pass", "overlapped"],
)
def test_sums_that_once_meant_something_else_have_new_keys(text, earlier):
    """The keys that commit b002606 gives belong to sums that were cut after they had travelled."""
    [job], _ = plan_jobs(parse_scenario(text))
    [exact], _ = plan_jobs(parse_scenario(text.replace(RESELECT, "")))
    [balanced], _ = plan_jobs(parse_scenario(text.replace(RESELECT, "balance = true\n")))
    settings: list[Any] = [
        _settings_version_1(each)["compression"] for each in (job, balanced, exact)
    ]
    assert ["sums" in each for each in settings] == [True, True, False]
    assert len({earlier, job.key, exact.key, balanced.key}) == 4


OWN = re.sub(r"(?s)dataset = .*?options = [^\n]*", "OWN", EVERYTHING).replace(
    "OWN", 'dataset = "net.py:lines"\nmodel = "net.py:small"\nloss = "net.py:squares"'
)
ADAMW = (
    OVERLAPPED.partition("[compression]")[0].replace(
        "momentum = 0.5\nnesterov = true\nweight_decay = 1e-4",
        'optimizer = "adamw"\noptimizer_options = { betas = [0.9, 0.95] }\n'
        "learning_rate_options = { final_factor = 0.1 }\nlearning_rate_warm_up_epochs = 1.0",
    )
    + "[compression]\nlook_ahead = 0.25\n"
)

SHARES = OVERLAPPED.replace("world_size = 3", "world_size = 3\nbatch_shares = [5, 5, 1]")
GOSSIP = (
    OVERLAPPED.partition("[compression]")[0]
    .replace('name = "butterfly"\noptions = { order = "far" }', 'name = "gossip"')
    .replace("timeout_s", 'on_lost_rank = "continue"\nlabel_skew = 0.5\ntimeout_s')
)


def test_every_setting_that_decides_a_result_counts(tmp_path):
    """A setting that is added has to be written down in the fingerprint as well."""
    counted: set[str] = set()
    write_own(tmp_path)
    for text in (EVERYTHING, BALANCED, OVERLAPPED, POWERSGD, OWN, ADAMW, SHARES, GOSSIP):
        [job], _ = plan_jobs(parse_scenario(text, folder=tmp_path))
        settings: Any = _settings_version_1(job)
        counted |= {*settings["train"], *settings["compression"]}
    known = TrainSection.model_fields.keys() | CompressionSection.model_fields.keys()
    unimportant = {"folder", "densities", "track_ages", "log", "checkpoint_every", "evaluate_ranks"}
    assert known - counted == unimportant
