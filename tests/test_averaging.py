"""Averaging rules as values, and the scenarios and commands that name them."""

import pickle

import pytest
from pydantic import TypeAdapter, ValidationError

import dgc_topo as dt
from dgc_topo.averaging import AveragingChoice
from dgc_topo.experiments.jobs import Part, plan_jobs
from dgc_topo.experiments.scenario import ScenarioError, load_scenario
from dgc_topo.training.job import Job
from tests.training.tiny import write_tiny

ADAPTER: TypeAdapter[dt.Averaging] = TypeAdapter(AveragingChoice)


@pytest.mark.parametrize("name", dt.known_averagings())
def test_text_and_table_are_inverses_and_values_are_hashable(name):
    for options in ({}, {} if name == "gradients" else {"every": 7}, {"every": 1}):
        rule = dt.load_averaging(name, **options)  # type: ignore[arg-type]
        assert dt.load_averaging(str(rule)) == rule
        assert ADAPTER.validate_json(ADAPTER.dump_json(rule)) == rule
        assert pickle.loads(pickle.dumps(rule)) == rule
        assert len({rule, dt.load_averaging(str(rule))}) == 1
        assert rule.every == options.get("every", rule.every)


def test_the_text_says_h_wherever_it_is_not_always_1():
    assert str(dt.load_averaging("local-sgd")) == "local-sgd:every=10"
    assert str(dt.load_averaging("local-sgd", every=1)) == "local-sgd:every=1"
    assert str(dt.load_averaging("d-psgd")) == "d-psgd"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dilocco", "expected one of gradients.*did you mean 'diloco'"),
        ("diloco:evry=3", "evry: unknown key.*did you mean 'every'"),
        ("diloco:every=0", "every = 0: expected greater than or equal to 1"),
        ("diloco:every=2.5", "every = 2.5"),
        ("diloco:every=true", "every = true"),
        ("diloco:outer_momentum=1", "outer_momentum = 1: expected less than 1"),
        ("gradients:every=3", "averaged in every step, expected 1, or local-sgd:every=3"),
        ("local-sgd:outer_momentum=0.5", "outer_momentum: unknown key"),
        ("diloco:every", "expected name or name:key=value"),
        ("diloco:every=2,every=3", "given twice"),
    ],
)
def test_what_is_no_rule_is_refused_with_the_nearest(text, says):
    with pytest.raises(ValueError, match=says):
        dt.load_averaging(text)


def jobs_of(folder, keys: str, *topologies: str, **settings) -> tuple[list[Job], list[str]]:
    path = write_tiny(folder, *topologies, **settings)
    path.write_text(path.read_text().replace("[train]", f"{keys}\n[train]", 1))
    return plan_jobs(load_scenario(path))


def test_rules_are_an_axis_beside_topologies_and_densities(tmp_path):
    rules = 'averaging = ["local-sgd:every=4", "gradients", { rule = "d-psgd" }]'
    jobs, left_out = jobs_of(tmp_path, rules, "ring", "gossip")
    found = [(job.topology.name, str(job.averaging), job.density) for job in jobs]
    assert found == [
        ("ring", "local-sgd:every=4", 1.0),
        ("ring", "local-sgd:every=4", 0.01),
        ("ring", "gradients", 1.0),
        ("ring", "gradients", 0.01),
        ("gossip", "d-psgd", 1.0),
    ]
    assert len({job.key for job in jobs}) == 5
    assert len(left_out) == 4
    assert any(line.startswith("local-sgd over gossip") for line in left_out)


def test_without_a_rule_jobs_are_what_they_were(tmp_path):
    jobs, _ = jobs_of(tmp_path, "", "ring", "gossip", densities=(1.0,))
    assert [job.averaging for job in jobs] == [None, None]
    assert [job.rule.rule for job in jobs] == ["gradients", "d-psgd"]


@pytest.mark.parametrize(
    ("keys", "topologies", "says"),
    [
        ('averaging = "diloco"', ["gossip"], "diloco over gossip.*expected .*all-reduce"),
        ('averaging = "diloco"', ["ring", "gossip"], "diloco over gossip"),
        ('averaging = "d-psgd"', ["ring"], "d-psgd over ring.*or local-sgd over this one"),
        ('averaging = ["diloco", "diloco"]', ["ring"], "there twice"),
        ("[averaging]\nevery = 5", ["ring"], "rule: missing, expected one of"),
        ("averaging = 3", ["ring"], "averaging = 3"),
    ],
)
def test_rules_that_fit_nothing_are_refused(tmp_path, keys, topologies, says):
    with pytest.raises(ScenarioError, match=says):
        jobs_of(tmp_path, keys, *topologies)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("[train]", "[train]\noverlap = true", "train.overlap = true.*expected overlap = false"),
        ("[compression]", '[compression]\nmerge = "reselect"', "merge = 'reselect'"),
        ("[compression]", "[compression]\nmasking = false", "masking = False"),
        ("[compression]", '[compression]\nmethod = "random-k"', "method = 'random-k'.*'dgc'"),
    ],
)
def test_settings_that_a_rule_cannot_honour_are_refused(tmp_path, old, new, says):
    path = write_tiny(tmp_path, "ring", densities=(0.01,))
    path.write_text('averaging = "local-sgd"\n' + path.read_text().replace(old, new, 1))
    with pytest.raises(ScenarioError, match=says):
        load_scenario(path)


def test_a_part_takes_the_rules_that_fit_or_another(tmp_path):
    path = write_tiny(tmp_path, "ring", "gossip", densities=(1.0,))
    path.write_text('averaging = ["local-sgd", "d-psgd"]\n' + path.read_text())
    scenario, ring = load_scenario(path), dt.load_topology("ring")
    assert [str(rule) for rule in Part(ring).of(scenario).averaging] == ["local-sgd:every=10"]
    part = Part(ring, averaging=dt.load_averaging("diloco:every=5"))
    assert [str(job.averaging) for job in plan_jobs(part.of(scenario))[0]] == ["diloco:every=5"]
    assert part.options[-2:] == ("--averaging", "diloco:every=5")
    with pytest.raises(ScenarioError, match="d-psgd over ring"):
        Part(ring, averaging=dt.load_averaging("d-psgd")).of(scenario)


def test_a_value_that_is_no_rule_names_what_was_expected():
    with pytest.raises(ValidationError, match="expected a rule's name or text form"):
        ADAPTER.validate_python(3)
