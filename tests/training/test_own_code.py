"""Models, data and losses of the user's own: trained like those of the package, or refused."""

import re
from pathlib import Path

import pytest
import torch

import dgc_topo as dt
from dgc_topo.experiments.jobs import check_trainings, plan_jobs
from dgc_topo.experiments.scenario import Scenario, ScenarioError, load_scenario
from dgc_topo.python_files import CodeError
from dgc_topo.training.data import Shard
from dgc_topo.training.job import Job
from dgc_topo.training.learning import learning_task
from dgc_topo.training.loop import TrainingRun
from dgc_topo.training.world import VirtualWorld
from dgc_topo.workers import LaunchError
from tests.own_code import NET, SCENARIO, write_own
from tests.training.checkpoints import runs
from tests.training.test_virtual import assert_equal, run, run_here


def jobs_of(folder, train=None, code: str = NET, **more) -> list[Job]:
    """Return the jobs of the scenario, some of its keys replaced."""
    scenario = load_scenario(write_own(folder, code=code))
    values = scenario.model_dump(by_alias=True)
    values["train"] |= {"workers": "processes"} | (train or {})
    values |= more
    return plan_jobs(Scenario.model_validate(values))[0]


ROOT = Path(__file__).parents[2]
LINES = {"dataset": "net.py:lines", "model": "net.py:small", "loss": "net.py:squares"}
TEXT = {
    "dataset": "austen",
    "model": "net.py:Stateless",
    "options": {"bptt": 8},
    "epochs": 1,
}


@pytest.mark.slow
def test_processes_and_virtual_workers_learn_the_same(tmp_path):
    """Tied weights, batch statistics, dropout, random samples, an own loss, images."""
    jobs = jobs_of(tmp_path, {"options": {"hidden": 6, "noise": 0.5}})
    jobs += jobs_of(tmp_path, LINES)
    jobs += jobs_of(tmp_path, {"dataset": "net.py:images", "model": "mlp"})
    check_trainings("own", jobs)
    metrics = []
    for real, job in zip(run(jobs), jobs, strict=True):
        assert_equal(real, run_here(job))
        assert real.quality is not None
        metrics.append(real.quality.metric)
        assert real.workload == f"{job.train.model} on {job.train.dataset}"
    assert metrics == ["accuracy", "loss", "accuracy"]


def test_it_learns_and_a_tied_weight_stays_tied(tmp_path):
    (job,) = jobs_of(tmp_path, {"workers": "virtual", "epochs": 6, "max_steps_per_epoch": None})
    run_of = TrainingRun(job, 0, VirtualWorld(job, torch.device("cpu")), lambda _: None)
    record = run_of.run()
    assert record.quality is not None
    assert record.quality.final > 0.9
    for rank in run_of._ranks:
        weights = [getattr(rank.model, name).weight for name in ("second", "again")]
        assert weights[0] is weights[1] is run_of.parameters["second.weight"]


def test_the_files_text_is_part_of_the_job(tmp_path):
    (job,) = jobs_of(tmp_path)
    again = Job.model_validate_json(job.model_dump_json())
    assert again == job
    (edited,) = jobs_of(tmp_path, code=NET + "\n# one more line\n")
    assert edited.key != job.key
    (back,) = jobs_of(tmp_path)
    assert back.key == job.key


def test_a_file_that_changes_after_the_scenario_was_read_is_refused_by_the_workers(tmp_path):
    (job,) = jobs_of(tmp_path, {"workers": "virtual"})
    (tmp_path / "net.py").write_text(NET + "\n")
    with pytest.raises(LaunchError, match=r"train\.dataset: net\.py:classes: the file has changed"):
        run([job])


def refusal(folder, train=None, code: str = NET) -> str:
    with pytest.raises((ScenarioError, ValueError)) as refused:
        check_trainings("own.toml", jobs_of(folder, train, code))
    return str(refused.value)


@pytest.mark.parametrize(
    ("train", "says"),
    [
        ({"model": "net.py:Nett"}, r"train\.model: net\.py:Nett: the file has no 'Nett' \(did you"),
        ({"model": "net.py:torch"}, r"net\.py:torch: is module, expected a function or a class"),
        ({"model": "net.py:squares"}, r"net\.py:squares: needs outputs, targets, expected it in t"),
        ({"model": "net.py:lines"}, r"net\.py:lines: made tuple, expected an nn\.Module"),
        (
            {"model": "net.py:small"},
            r"outputs are float32 of shape \(2, 1\), expected shape \(2, 3",
        ),
        (
            {"options": {"width": 3}},
            r"net\.py:Net: unknown option 'width', expected some of hidden",
        ),
        ({"options": {"hidden": "x"}}, r"net\.py:Net: raised TypeError: .* at .*/net\.py:\d+"),
        ({"dataset": "net.py:Net"}, r"net\.py:Net: returned Net, expected two things: the train"),
        ({"dataset": "net.py:lines"}, r"train\.dataset: targets are float32 .*expected classes"),
        ({"data_path": "x"}, r"net\.py:classes: train\.data_path: expected none, or a function w"),
        (
            {"dataset": "net.py:images"},
            r"model: net\.py:Net: raised RuntimeError: .* for inputs fl",
        ),
        ({"loss": "net.py:small"}, r"train\.loss: net\.py:small"),
        ({"batch_size_per_worker": 99}, r"batches: 240 samples, 3 workers x batch 99 need more"),
        ({"model": "mlp"}, r"inputs are float32 of shape \(1, 8\), expected images"),
    ],
)
def test_what_is_wrong_is_said_before_any_worker_starts(tmp_path, train, says):
    found = refusal(tmp_path, train)
    assert found.startswith("own.toml: ")
    assert re.search(says, found), found


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("targets[:240])", "targets[:200])", r"train set: inputs \(240, 8\) and targets \(200,\)"),
        ("(inputs[240:], targets[240:])", "(inputs[:0], targets[:0])", "test set: empty, expected"),
        ("(inputs[240:], targets[240:])", "iter(())", r"test set: \w+, expected a pair of tensors"),
        ("% 3\n", "% 7\n", r"shape \(2, 7\): samples, classes \(at least 7: targets go up to 6\)"),
        (
            "return (inputs[:240], targets[:240])",
            "targets[100] = -1\n    return (inputs[:240], targets[:240])",
            r"train\.dataset: train set: a target is -1, expected classes from 0, or -100",
        ),
        (
            "def classes(noise: float = 0.3",
            "def classes(data_path, noise: float = 0.3",
            r"net\.py:classes: needs data_path, expected it in train\.data_path",
        ),
        ("import torch\n", "import torch\n1 / 0\n", r"ZeroDivisionError: .* at .*/net\.py:3"),
        ("import torch\n", "import torch, sys\nsys.exit()\n", "cannot be loaded: SystemExit"),
        ("self.last(hidden)", "hidden / 0 * 0", r"loss is nan at the start, expected a finite"),
    ],
)
def test_a_fault_in_the_file_is_named(tmp_path, old, new, says):
    assert old in NET
    code = NET.replace("torch.randn(3, 8)", "torch.randn(7, 8)").replace(old, new, 1)
    assert re.search(says, refusal(tmp_path, code=code)), refusal(tmp_path, code=code)


LISTED = """
class Listed(torch.utils.data.Dataset):
    def __init__(self, count, odd, raw=0):
        self.targets = [raw + (odd if at == 77 else at % 3) for at in range(count)]
        self.raw = raw

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, at):
        return torch.ones(8), self.targets[at] - self.raw


class Unlisted(Listed):
    def __init__(self, count, odd):
        super().__init__(count, odd)
        self.hidden = self.targets
        del self.targets

    def __len__(self):
        return len(self.hidden)

    def __getitem__(self, at):
        return torch.ones(8), self.hidden[at]


def listed():
    return Listed(240, 7), Listed(100, 2)


def raw():  # made to classes when samples are drawn
    return Listed(240, 2, raw=40), Listed(100, 2, raw=40)


def negative():
    return Listed(240, 2), Listed(100, -3)


def unlisted():
    return Unlisted(240, 7), Unlisted(100, 2)


def hole():
    inputs, targets = torch.ones(240, 8), torch.arange(240) % 3
    inputs[17, 3] = float("nan")
    return (inputs, targets), (inputs[:9], targets[:9])
"""


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("listed", r"expected shape \(\d+, 8\): samples, classes \(at least 8: targets go up to 7"),
        ("negative", r"train\.dataset: train or test set: a target is -3, expected classes from 0"),
        ("hole", r"loss is nan at the start, and train\.dataset: inputs hold nan, expected a fin"),
    ],
)
def test_odd_samples_anywhere_in_the_data_are_found_where_that_is_cheap(tmp_path, data, says):
    found = refusal(tmp_path, {"dataset": f"net.py:{data}"}, NET + LISTED)
    assert re.search(says, found), found


def test_what_a_data_set_lists_counts_only_if_it_gives_it(tmp_path):
    jobs = jobs_of(tmp_path, {"dataset": "net.py:raw"}, NET + LISTED)
    check_trainings("own.toml", jobs)


def test_a_target_that_was_found_too_late_names_the_data(tmp_path):
    (job,) = jobs_of(tmp_path, {"dataset": "net.py:unlisted"}, NET + LISTED)
    task = learning_task(job.train, Shard(240, 0, 1, 0), torch.device("cpu"))
    with pytest.raises(CodeError, match=r"net\.py:unlisted: a target is no class \(.*7.*0 to 2"):
        task.loss(task.build_model(), next(task.batches(0)))


TEXTS = """
class Tempered(Stateless):
    def forward(self, tokens, temperature=2.0):
        return super().forward(tokens) / temperature


class Counting(Stateless):
    def forward(self, tokens, state=None):
        count = torch.zeros(1) if state is None else state + 1
        self.seen = int(count)
        return super().forward(tokens), count
"""


def test_a_state_is_what_a_model_of_text_returns(tmp_path):
    """An optional second argument may be something else."""
    for model, carried in (("Stateless", False), ("Tempered", False), ("Counting", True)):
        (job,) = jobs_of(tmp_path, TEXT | {"model": f"net.py:{model}"}, NET + TEXTS)
        check_trainings("own.toml", [job])
        task = learning_task(job.train, Shard(2, 0, 1, 0), torch.device("cpu"))
        net = task.build_model()
        for _, batch in zip(range(3), task.batches(0), strict=False):
            task.loss(net, batch)
        assert bool(task.state_dict()) == carried
    assert net.seen == 2


def test_targets_that_the_loss_leaves_out_count_for_no_accuracy(tmp_path):
    left_out = "targets[240:300:2] = -100\n    return (inputs[:240], targets[:240])"
    code = NET.replace("return (inputs[:240], targets[:240])", left_out, 1)
    (job,) = jobs_of(tmp_path, code=code)
    check_trainings("own.toml", [job])
    task = learning_task(job.train, Shard(8, 0, 1, 0), torch.device("cpu"))
    score = task.evaluate(task.build_model())
    assert score.count == 30
    assert score.total == int(score.total) <= 30


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("net.py:Net", "other.py:Net", r"train\.model: file 'other\.py': no such file in '/"),
        ("net.py:classes", "net:classes", r"train\.dataset = 'net:classes': expected 'fashion"),
        ('dataset = "net.py:classes"', 'dataset = "emulated"', "expected a model of the zoo"),
        ('model = "net.py:Net"', 'model = "char-lstm"', "expected a model of your own"),
        (
            'dataset = "net.py:classes"',
            'dataset = "austen"\nloss = "net.py:squares"',
            "loss with dataset 'austen': it has one of its own",
        ),
        ('workers = "virtual"', 'code = { "net.py" = "x" }', r"train\.code: unknown key"),
        ('workers = "virtual"', 'loss = "mse"', r"train\.loss = 'mse': expected the form file\.py"),
    ],
)
def test_the_keys_are_checked_when_a_scenario_is_read(tmp_path, old, new, says):
    assert old in SCENARIO
    path = write_own(tmp_path, SCENARIO.replace(old, new, 1))
    with pytest.raises(ScenarioError, match=says):
        load_scenario(path)


def test_the_example_learns_and_is_predicted(tmp_path):
    """Virtual workers, all topologies and densities; the results keep the file."""
    scenario = ROOT / "examples" / "own_model" / "scenario.toml"
    results = dt.run(scenario, tmp_path / "out")
    assert len(results.measured) == 4
    assert all(record.quality and record.quality.final > 0.8 for record in results.measured)
    assert len(results.predicted) == 8
    assert len(list(results.path.glob("logs/*/steps.csv"))) == 4
    kept = results.path / "files" / "net.py"
    assert kept.read_text() == (scenario.parent / "net.py").read_text()


@pytest.mark.parametrize("train", [LINES | {"optimizer": "adamw"}, TEXT], ids=["data", "text"])
def test_it_goes_on_from_a_checkpoint_with_the_same_bits(tmp_path, train):
    """Samples drawn at random, a loss of one's own, and a model of text without a state."""
    (job,) = jobs_of(tmp_path, train | {"checkpoint_every": 3})
    whole = runs.train(job)
    runs.stopped(job, tmp_path / "out", whole.num_steps - 1)
    again = runs.train(job, tmp_path / "out", resume=True)
    assert again.resumed_at
    assert (again.parameters, again.quality) == (whole.parameters, whole.quality)
