"""Rules in files of the user's own: what they do, where they can be used, what errors say."""

import re
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter

import dgc_topo as dt
from dgc_topo.averaging import AveragingChoice, found_anywhere
from dgc_topo.experiments.jobs import plan_jobs
from dgc_topo.experiments.training_cases import cases_of_runs, cases_of_scenario
from dgc_topo.training.job import Job
from tests.training.averaging.quadratic import Ranks, adamw, close, momentum, same
from tests.training.checkpoints.runs import changed, stopped, train
from tests.training.test_virtual import jobs_of, run_here

ELASTIC = Path(__file__).parents[3] / "examples" / "own_rule" / "elastic.py"
ADAPTER: TypeAdapter[dt.Averaging] = TypeAdapter(AveragingChoice)

MEAN = """
import dgc_topo as dt

class Mean(dt.AveragingRule):
    every: int = 3

    def send(self):
        return self.parameters

    def receive(self, mean):
        for name, parameter in self.parameters.items():
            parameter.copy_(mean[name])
"""

CHANGE = """
import dgc_topo as dt

class Change(dt.AveragingRule):
    over = "all-reduce"
    compresses = True
    every: int = 3

    def start(self):
        self.state["anchor"] = {name: p.clone() for name, p in self.parameters.items()}
        self.state["rounds"] = 0

    def send(self):
        return {name: p - self.state["anchor"][name] for name, p in self.parameters.items()}

    def receive(self, mean):
        self.state["rounds"] += 1
        for name, parameter in self.parameters.items():
            parameter.copy_(self.state["anchor"][name].add_(mean[name]))
"""


def write(folder: Path, text: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("make", [momentum, adamw])
def test_a_rule_of_ones_own_can_be_local_sgd_and_d_psgd(tmp_path, make):
    path = write(tmp_path, MEAN)
    found = Ranks(f"{path}", 5, make=make).train(6)
    assert close(found.shared(), Ranks("local-sgd:every=3", 5, make=make).train(6).shared())
    path = write(tmp_path, MEAN.replace("every: int = 3", "moves_first = False"))
    found = Ranks(str(path), 5, topology="gossip:graph=torus", make=make).train(6)
    expected = Ranks("d-psgd", 5, topology="gossip:graph=torus", make=make).train(6)
    for own, other in zip(found.ranks, expected.ranks, strict=True):
        assert same(own.values(), other.values())


@pytest.mark.parametrize("density", [1.0, 0.2])
def test_compressed_changes_are_those_of_updates_bit_for_bit(tmp_path, density):
    path = write(tmp_path, CHANGE)
    found = Ranks(str(path), 3, topology="butterfly", density=density, make=adamw).train(9)
    expected = Ranks("updates:every=3", 3, topology="butterfly", density=density, make=adamw)
    for own, other in zip(found.ranks, expected.train(9).ranks, strict=True):
        assert same(own.values(), other.values())


def test_the_example_is_elastic_averaging():
    """By hand: the centre moves to the mean, and each rank to where the centre was."""
    ranks = Ranks(f"{ELASTIC}:every=1,pull=0.3", 4)
    by_hand = Ranks("local-sgd:every=1000000", 4)
    centre = by_hand.ranks[0].values()
    for _ in range(5):
        ranks.train(1)
        by_hand.train(1)
        ends = [rank.values() for rank in by_hand.ranks]
        for name in centre:
            mean = torch.stack([end[name] for end in ends]).mean(0)
            for rank in by_hand.ranks:
                rank.parameters[name].data.sub_(0.3 * (rank.values()[name] - centre[name]))
            centre[name] = centre[name] + 0.3 * (mean - centre[name])
    for own, other in zip(ranks.ranks, by_hand.ranks, strict=True):
        assert close(own.values(), other.values())
    assert close(ranks.shared(), centre)


def test_a_snapshot_goes_on_with_the_same_bits(tmp_path):
    rule = str(write(tmp_path, CHANGE))
    ranks = Ranks(rule, 3, density=0.3, make=adamw).train(4)
    again = Ranks(rule, 3, density=0.3, make=adamw)
    for old, new, before, after in zip(
        ranks.averagers, again.averagers, ranks.ranks, again.ranks, strict=True
    ):
        after.optimizer.load_state_dict(deepcopy(before.optimizer.state_dict()))
        new._set(before.values())
        new.load_state_dict(old.state_dict())
        assert new.rule.state["rounds"] == 1
    again.iteration = 4
    for own, other in zip(ranks.train(3).ranks, again.train(3).ranks, strict=True):
        assert same(own.values(), other.values())


def job_with(folder, text: str, rule: str, *, topology: str = "ring", **settings) -> Job:
    write(folder, text)
    (job,) = jobs_of(folder, topology, densities=(1.0,), **settings)
    return job.model_copy(update={"averaging": dt.load_averaging(rule, folder=folder)})


def test_in_a_scenario_it_is_trained_and_predicted_and_its_text_counts(tmp_path):
    write(tmp_path, MEAN)
    toml = """
        name = "mine"
        topologies = ["ring"]
        averaging = ["local-sgd:every=4", "mine.py:every=4"]
        [train]
        dataset = "fashion-mnist-subset"
        model = "mlp"
        world_size = 3
        workers = "virtual"
        batch_size_per_worker = 8
        epochs = 1
        max_steps_per_epoch = 8
        learning_rate = 0.1
        [simulate]
        networks = ["1gbe"]
        world_sizes = [8]
        [[simulate.workloads]]
        model = "resnet50"
        [compression]
        densities = [1.0]
    """
    path = tmp_path / "scenario.toml"
    path.write_text(toml)
    scenario = dt.load_scenario(path)
    assert tmp_path / "mine.py" in scenario.files
    jobs, _ = plan_jobs(scenario)
    usual, own = map(run_here, jobs)
    assert own.averaging == "mine.py:every=4"
    assert own.wire_bytes_per_step == usual.wire_bytes_per_step
    assert own.quality
    assert usual.quality
    assert own.quality.final == pytest.approx(usual.quality.final, abs=0.02)
    (case,) = cases_of_runs([own], rules=scenario.rules)
    assert (case.step.every, case.step.moves_first) == (4, True)
    local, mine = cases_of_scenario(scenario)
    assert mine.step == replace(local.step, alike_vectors=0)  # it says none
    keys = {job.key for job in jobs}
    again = type(jobs[1]).model_validate_json(jobs[1].model_dump_json())
    assert again == jobs[1]
    write(tmp_path, MEAN + "\n# another text\n")
    with pytest.raises(ValueError, match="the file has changed since this run began"):
        type(jobs[1]).model_validate_json(jobs[1].model_dump_json())
    assert plan_jobs(dt.load_scenario(path))[0][1].key not in keys
    own_rule = dt.load_averaging("mine.py", folder=tmp_path)
    assert found_anywhere(own_rule) != own_rule
    code = dt.load_averaging(str(found_anywhere(own_rule))).code
    assert code
    assert own_rule.code
    assert code.digest == own_rule.code.digest


def test_a_training_goes_on_bit_for_bit_and_with_other_workers(tmp_path):
    job = changed(job_with(tmp_path, CHANGE, "mine.py:every=3", steps=5), checkpoint_every=2)
    whole = train(job)
    stopped(job, tmp_path / "kept", 7)
    again = train(job, tmp_path / "kept", resume=True)
    assert again.resumed_at
    assert again.quality == whole.quality
    stopped(job, tmp_path / "more", 8)
    more = train(changed(job, world_size=5), tmp_path / "more", resume=True)
    assert more.quality
    first, last = more.quality.points
    assert last.value > 0.5 * first.value


BASE = "import dgc_topo as dt\n\nclass Mine(dt.AveragingRule):\n"
SEND = "    def send(self):\n        return self.parameters\n"
RECEIVE = "    def receive(self, mean):\n        pass\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1\n", r"has no classes, expected one class that derives from dgc_topo.Averaging"),
        ("import torch\n1 / 0\n", r"cannot be loaded: ZeroDivisionError.* at .*mine.py:2"),
        (BASE + SEND, r"mine.py:3: class Mine has no method receive.*def receive\(self, mean\)"),
        (
            BASE + SEND + RECEIVE + "    over = 'gossip'\n",
            r"mine.py:3: class Mine: over = 'gossip', expected some of 'all-reduce', 'doubly",
        ),
        (
            BASE + "    moves_first: bool = False\n" + SEND + RECEIVE,
            r"mine.py:3: class Mine: moves_first has a type, expected moves_first = ... without",
        ),
        (BASE + "    pull: float\n" + SEND + RECEIVE, r"option pull has no default"),
        (BASE + "    pull: list = []\n" + SEND + RECEIVE, r"option pull = \[\], expected a numb"),
        (BASE + "    pull: float = 'x'\n" + SEND + RECEIVE, r"mine.py:3: .*default pull = 'x'"),
        (BASE + "    pull: Flaot = 1.0\n" + SEND + RECEIVE, r"name 'Flaot' is not defined"),
        (
            BASE + "    compresses = True\n" + SEND + RECEIVE,
            r"compresses = True with over = .*expected over = \('all-reduce',\)",
        ),
        (BASE + "    vectors = 1.5\n" + SEND + RECEIVE, r"vectors = 1.5, expected a whole number"),
        (BASE + "    goals: int = 1\n" + SEND + RECEIVE, r"option goals, which every rule has"),
        (BASE + "    every: int = 0\n" + SEND + RECEIVE, r"default every = 0: expected greater"),
    ],
)
def test_a_file_that_is_no_rule_is_refused_with_file_and_line(text, says, tmp_path):
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=rf"averaging '{re.escape(str(path))}': .*{says}"):
        dt.load_averaging(str(path))


@pytest.mark.parametrize(
    ("send", "says"),
    [
        (
            "        return list(self.parameters)\n",
            r"mine.py:4: send\(\) returned list, expected t",
        ),
        (
            "        return {'x': self.nothing}\n",
            r"raised AttributeError.* at .*mine.py:5, in send",
        ),
        (
            "        return {'x': self.parameters['bias']}\n",
            r"mine.py:4: send\(\) returned 5 numbers, expected 35: vectors = 1 times",
        ),
    ],
)
def test_what_it_does_wrong_in_a_training_is_said_with_file_and_line(send, says, tmp_path):
    path = write(tmp_path, BASE + "    def send(self):\n" + send + RECEIVE)
    with pytest.raises(ValueError, match=f"averaging .*{says}"):
        Ranks(str(path), 2).train(1)


def test_density_below_1_is_for_rules_that_compress(tmp_path):
    write(tmp_path, MEAN)
    assert dt.load_averaging("mine.py", folder=tmp_path).compresses is False
    path = write(tmp_path, CHANGE.replace("p - self", "p.view(-1) - self"))
    with pytest.raises(ValueError, match=r"raised RuntimeError|expected shape"):
        Ranks(str(path), 2, density=0.1).train(3)


@pytest.mark.slow
def test_the_example_is_compared_and_predicted_and_its_text_is_what_the_docs_show(tmp_path):
    root = ELASTIC.parents[2]
    scenario = dt.load_scenario(ELASTIC.with_name("scenario.toml"))
    jobs, left_out = plan_jobs(scenario.model_copy(update={"topologies": scenario.topologies[:1]}))
    assert not left_out
    found = {job.rule.rule: run_here(changed(job, epochs=1)) for job in jobs}
    best = found["gradients"].quality
    own = found["elastic.py"].quality
    assert best
    assert own
    assert own.final > 0.5 * best.final
    assert own.points[0].consensus_distance
    cases = cases_of_runs(found.values(), scenario.simulate, scenario.topologies, scenario.rules)
    assert {case.step.every for case in cases} == {1, 10}
    shown = (root / "docs" / "guides" / "averaging-rule.md").read_text(encoding="utf-8")
    code = shown.partition("```python\n")[2]
    path = write(tmp_path, code.partition("```")[0])
    ranks = Ranks(f"{path}:every=2", 3).train(4)
    example = Ranks(f"{ELASTIC}:every=2", 3).train(4)
    assert same(ranks.shared(), example.shared())
